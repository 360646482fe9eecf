/** What a file has in place of a service: the responses that its page shows. */
import type { Schemas } from "../api/client";

interface Export {
  /** Of the dashboard's page. */
  path: string;
  session: Schemas["SessionView"];
  /** Bodies by the path of the request; of metrics also by axis, of groups by what they share. */
  responses: Record<string, unknown>;
  /** Addresses with the data of pictures. */
  pictures: Record<string, string>;
}

const element = document.getElementById("export");

/** null: the page is of a service. */
export const exported = element && (JSON.parse(element.textContent) as Export);

export function responseTo(url: string): unknown {
  const { pathname, searchParams } = new URL(url, "http://export");
  const name = ["x", "by"].find((key) => searchParams.has(key));
  return exported?.responses[name ? `${pathname}?${name}=${searchParams.get(name)}` : pathname];
}

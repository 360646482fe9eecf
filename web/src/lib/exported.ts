/** What a file has in place of a service: the responses that its page shows. */
import type { Schemas } from "../api/client";

interface Export {
  /** Of the dashboard's page. */
  path: string;
  session: Schemas["SessionView"];
  /** Bodies by the path of the request; of metrics, also by the axis. */
  responses: Record<string, unknown>;
  /** Addresses with the data of pictures. */
  pictures: Record<string, string>;
}

const element = document.getElementById("export");

/** null: the page is of a service. */
export const exported = element && (JSON.parse(element.textContent) as Export);

export function responseTo(url: string): unknown {
  const { pathname, searchParams } = new URL(url, "http://export");
  const axis = searchParams.get("x");
  return exported?.responses[axis ? `${pathname}?x=${axis}` : pathname];
}

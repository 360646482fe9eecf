/** The address is the state of a page: its path and its query, as signals. */
import { computed, signal } from "@preact/signals";
import { exported } from "./exported";

const address = signal(new URL(exported?.path ?? "", exported ? "http://export" : location.href));

export const path = computed(() => address.value.pathname);
export const query = computed(() => address.value.searchParams);

addEventListener("popstate", () => {
  if (exported) return;
  address.value = new URL(location.href);
});

export function navigate(target: string, how: "push" | "replace" = "push"): void {
  if (exported) {
    address.value = new URL(target, address.value);
    return;
  }
  history[how === "push" ? "pushState" : "replaceState"](null, "", target);
  address.value = new URL(location.href);
  if (how === "push") scrollTo(0, 0);
}

/** Sets query parameters of this page; empty ones are removed. No new entry in the history. */
export function setQuery(changes: Record<string, string | readonly string[] | null>): void {
  navigate(`${path.value}${withQuery(query.value, changes)}`, "replace");
}

export function withQuery(
  from: URLSearchParams,
  changes: Record<string, string | readonly string[] | null>,
): string {
  const next = new URLSearchParams(from);
  for (const [name, value] of Object.entries(changes)) {
    next.delete(name);
    for (const item of value === null ? [] : [value].flat()) if (item) next.append(name, item);
  }
  const text = next.toString();
  return text && `?${text}`;
}

/** Follows links to the dashboard's own pages without loading the document again. */
export function followLinks(): void {
  addEventListener("click", (event) => {
    const link = (event.target as Element).closest?.("a");
    if (!link || event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    if (
      link.target ||
      (!exported && link.hasAttribute("download")) ||
      link.origin !== location.origin
    )
      return;
    if (
      (!exported && link.pathname.startsWith("/v1/")) ||
      link.getAttribute("href")?.startsWith("#")
    )
      return;
    event.preventDefault();
    // Other pages are not in the file.
    if (exported) return;
    navigate(link.pathname + link.search);
  });
}

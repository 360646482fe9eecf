/** Keys of lists: j and k move through the rows, x selects, / searches. */

export function handleListKeys(event: KeyboardEvent, onCompare: () => void): void {
  const target = event.target as HTMLElement;
  if (
    event.metaKey ||
    event.ctrlKey ||
    event.altKey ||
    target.matches("input:not([type=checkbox]), select, textarea")
  )
    return;
  if (event.key === "/") document.querySelector<HTMLElement>("input[type=search]")?.focus();
  else if (event.key === "j" || event.key === "k") moveFocus(event.key === "j" ? 1 : -1);
  else if (event.key === "x")
    target.closest("tr")?.querySelector<HTMLElement>(".pick input")?.click();
  else if (event.key === "c") onCompare();
  else return;
  event.preventDefault();
}

function moveFocus(step: number): void {
  const links = [...document.querySelectorAll<HTMLElement>("tbody a.row")];
  const row = document.activeElement?.closest("tr");
  const current = links.findIndex((link) => row?.contains(link));
  const next = current < 0 ? 0 : Math.min(links.length - 1, Math.max(0, current + step));
  links[next]?.focus();
}

/** Which rows of a long table are in the document. */

/** As --row in the style sheet. */
export const ROW_HEIGHT = 34;
/** Rows beyond the window, so that a quick scroll and the Tab key find rows. */
const MARGIN = 20;

/** `first`: the first row in the window. A short table is shown completely. */
export function visibleRows(
  rows: number,
  first: number,
  windowHeight: number,
): { first: number; end: number } {
  const inWindow = Math.ceil(windowHeight / ROW_HEIGHT);
  if (rows <= inWindow + 4 * MARGIN) return { first: 0, end: rows };
  const start = Math.max(0, Math.min(first, rows - inWindow) - MARGIN);
  return { first: start, end: Math.min(rows, start + inWindow + 2 * MARGIN) };
}

/** Results of studies as text. */
import type { Schemas } from "../api/client";

type Column = Schemas["StudyMetric"] | Schemas["NetworkCount"];

/** With the unit. */
export const COLUMNS: Record<Column, string> = {
  "test/error": "Test error, %",
  "test/top5_error": "Top-5 test error, %",
  "validation/error": "Validation error, %",
  "train/error": "Training error, %",
  "network/parameters": "Parameters, millions",
  "network/multiply_adds": "Multiply-adds, billions",
  "network/share": "Share of the multiply-adds, %",
};

type Value = { mean: number; std: number | null } | { value: number; std?: number | null };

/** The mean over seeds, or a number of the paper, with its standard deviation: 8.75 ± 0.16. */
export function spread(found: Value | null | undefined): string {
  if (!found) return "";
  const middle = "mean" in found ? found.mean : found.value;
  const { std } = found;
  return std === null || std === undefined
    ? middle.toFixed(2)
    : `${middle.toFixed(2)} ± ${std.toFixed(2)}`;
}

/** How the mean compares with the paper's number. */
export function verdictOf(cell: Schemas["CellView"]): string {
  if (cell.verdict === null) return "";
  const words = cell.verdict.replaceAll("-", " ");
  if (cell.difference === null) return words;
  const sign = cell.difference > 0 ? "+" : "";
  return `${words}, ${sign}${cell.difference.toFixed(2)}`;
}

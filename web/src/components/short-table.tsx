/** A table of few rows, each with its actions; a note where there is none. */
import type { ComponentChildren } from "preact";
import { ScrollRegion } from "./scroll-region";

interface Properties<T> {
  label: string;
  /** Undefined while they are read. */
  rows: readonly T[] | undefined;
  /** In place of a table without rows. */
  note: ComponentChildren;
  headings: ComponentChildren;
  children: (row: T) => ComponentChildren;
}

export function ShortTable<T>({ label, rows, note, headings, children }: Properties<T>) {
  if (rows === undefined) return null;
  if (rows.length === 0) return <>{note}</>;
  return (
    <ScrollRegion label={label}>
      <table>
        <thead>
          <tr>{headings}</tr>
        </thead>
        <tbody>{rows.map(children)}</tbody>
      </table>
    </ScrollRegion>
  );
}

/** Of the column with the actions of each row. */
export function ActionsHeading() {
  return (
    <th>
      <span class="hidden-visually">Actions</span>
    </th>
  );
}

/** A table of many rows: only those near the window are in the document. */
import { type Signal, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { memo } from "../lib/memo";
import { ROW_HEIGHT, visibleRows } from "../lib/virtual";
import { ScrollRegion } from "./scroll-region";

export interface Column<T> {
  id: string;
  title: string;
  cell: (row: T) => ComponentChildren;
  /** Right-aligned. */
  number?: boolean;
  /** Hidden on narrow screens. */
  wide?: boolean;
  /** Cut off where it is long. */
  clip?: boolean;
  sortable?: boolean;
}

export interface Sorting {
  column: string;
  descending: boolean;
}

interface Properties<T> {
  label: string;
  rows: readonly T[];
  columns: readonly Column<T>[];
  idOf: (row: T) => string;
  nameOf?: (row: T) => string;
  selected?: Signal<ReadonlySet<string>>;
  sorting?: Sorting;
  onSort?: (sorting: Sorting) => void;
  /** Called with the row under the pointer, and with null when it leaves. */
  onPoint?: (id: string | null) => void;
  /** Called when the last row is near. */
  onEnd?: () => void;
}

export function Table<T>(properties: Properties<T>) {
  const { label, rows, columns, idOf, selected } = properties;
  const body = useRef<HTMLTableSectionElement>(null);
  const first = useSignal(0);
  const shown = visibleRows(rows.length, first.value, innerHeight);

  useEffect(() => {
    const look = () => {
      const top = body.current?.getBoundingClientRect().top ?? 0;
      first.value = Math.max(0, Math.floor(-top / ROW_HEIGHT / 10) * 10);
      const bottom = body.current?.getBoundingClientRect().bottom ?? 0;
      if (bottom < innerHeight * 2) properties.onEnd?.();
    };
    look();
    addEventListener("scroll", look, { passive: true });
    addEventListener("resize", look);
    return () => {
      removeEventListener("scroll", look);
      removeEventListener("resize", look);
    };
  }, [rows.length, properties.onEnd]);

  const width = columns.length + (selected ? 1 : 0);
  return (
    <ScrollRegion label={label}>
      <table aria-rowcount={rows.length + 1}>
        <thead>
          <tr>
            {selected && (
              <th class="pick">
                <Pick
                  label={`Select all: ${label}`}
                  isOn={rows.length > 0 && rows.every((row) => selected.value.has(idOf(row)))}
                  onChange={(isOn) => {
                    selected.value = toggled(selected.value, rows.map(idOf), isOn);
                  }}
                />
              </th>
            )}
            {columns.map((column) => (
              <Heading column={column} sorting={properties.sorting} onSort={properties.onSort} />
            ))}
          </tr>
        </thead>
        <tbody ref={body}>
          <Spacer rows={shown.first} width={width} />
          {rows.slice(shown.first, shown.end).map((row, index) => {
            const id = idOf(row);
            return (
              <Row
                key={id}
                id={id}
                row={row}
                index={shown.first + index}
                columns={columns}
                nameOf={properties.nameOf}
                selected={selected}
                isSelected={selected?.value.has(id)}
                onPoint={properties.onPoint}
              />
            );
          })}
          <Spacer rows={rows.length - shown.end} width={width} />
        </tbody>
      </table>
    </ScrollRegion>
  );
}

interface RowProperties<T> {
  id: string;
  row: T;
  /** From 0. */
  index: number;
  columns: readonly Column<T>[];
  nameOf: ((row: T) => string) | undefined;
  selected: Signal<ReadonlySet<string>> | undefined;
  isSelected: boolean | undefined;
  onPoint: ((id: string | null) => void) | undefined;
}

/** While the table scrolls, only rows that enter the document are rendered. */
const Row = memo(function Row<T>(properties: RowProperties<T>) {
  const { id, row, index, columns, nameOf, selected, isSelected, onPoint } = properties;
  return (
    <tr
      aria-rowindex={index + 2}
      aria-selected={isSelected}
      onMouseEnter={() => onPoint?.(id)}
      onMouseLeave={() => onPoint?.(null)}
    >
      {selected && (
        <td class="pick">
          <Pick
            label={`Select ${nameOf?.(row) ?? id}`}
            isOn={isSelected ?? false}
            onChange={(isOn) => {
              selected.value = toggled(selected.value, [id], isOn);
            }}
          />
        </td>
      )}
      {columns.map((column) => (
        <td class={classOf(column)}>{column.cell(row)}</td>
      ))}
    </tr>
  );
});

function Heading<T>({
  column,
  sorting,
  onSort,
}: {
  column: Column<T>;
  sorting: Sorting | undefined;
  onSort: ((sorting: Sorting) => void) | undefined;
}) {
  const isCurrent = sorting?.column === column.id;
  if (!onSort || !column.sortable) return <th class={classOf(column)}>{column.title}</th>;
  const descending = isCurrent ? !sorting.descending : Boolean(column.number);
  const order = isCurrent ? (sorting.descending ? "descending" : "ascending") : "none";
  return (
    <th class={classOf(column)} aria-sort={order}>
      <button type="button" onClick={() => onSort({ column: column.id, descending })}>
        {column.title}
        {isCurrent && <span aria-hidden="true">{sorting.descending ? " ↓" : " ↑"}</span>}
      </button>
    </th>
  );
}

function Pick(properties: { label: string; isOn: boolean; onChange: (isOn: boolean) => void }) {
  return (
    <input
      type="checkbox"
      aria-label={properties.label}
      checked={properties.isOn}
      onChange={(event) => properties.onChange(event.currentTarget.checked)}
    />
  );
}

function Spacer({ rows, width }: { rows: number; width: number }) {
  if (rows <= 0) return null;
  return (
    <tr class="spacer">
      <td colSpan={width} style={{ height: `${rows * ROW_HEIGHT}px` }} />
    </tr>
  );
}

function classOf<T>(column: Column<T>): string {
  return [column.number && "number", column.wide && "wide", column.clip && "clip"]
    .filter(Boolean)
    .join(" ");
}

function toggled(from: ReadonlySet<string>, ids: string[], isOn: boolean): ReadonlySet<string> {
  const next = new Set(from);
  for (const id of ids) isOn ? next.add(id) : next.delete(id);
  return next;
}

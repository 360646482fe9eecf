/** A line chart, its legend, and its values as a table. */
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import { type Line, picked } from "../lib/curves";
import { precise } from "../lib/format";
import { colorOf, theme } from "../lib/theme";
import { type Range, zoomedByKey } from "../lib/zoom";
import { ScrollRegion } from "./scroll-region";

interface Properties {
  title: string;
  lines: readonly Line[];
  xLabel: string;
  formatX?: (value: number) => string;
  /** Charts with the same key share their cursor. */
  sync?: string;
  zoom?: Range | null;
  onZoom?: (range: Range | null) => void;
  isLog?: boolean;
  /** The highest value that is drawn. */
  top?: number | undefined;
  height?: number;
  /** Without the legend, which many lines would fill. */
  isBrief?: boolean;
}

export function Chart(properties: Properties) {
  const { title, lines, xLabel } = properties;
  const formatX = properties.formatX ?? precise;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const cursor = useSignal<number | null>(null);
  const latest = useRef(properties);
  latest.current = properties;
  const data = useMemo(() => joinLines(lines), [lines]);
  const shape = JSON.stringify([
    lines.map(({ label, color, dash, width, faint, pale, hasEnd, low }) => [
      label,
      color,
      dash,
      width,
      faint,
      pale,
      hasEnd,
      !low,
    ]),
    properties.isLog,
    properties.top,
    xLabel,
    theme.value,
    Boolean(properties.zoom),
  ]);

  useEffect(() => {
    const element = box.current;
    if (!element || lines.length === 0) return;
    const created = new uPlot(optionsOf(latest, element.clientWidth, cursor), data, element);
    plot.current = created;
    const observer = new ResizeObserver(() =>
      created.setSize({ width: element.clientWidth, height: created.height }),
    );
    observer.observe(element);
    return () => {
      observer.disconnect();
      created.destroy();
      plot.current = null;
    };
  }, [shape]);

  useEffect(() => plot.current?.setData(data), [lines, properties.zoom]);

  const shown = lines.filter((line) => !line.faint);
  return (
    <figure class="chart">
      <figcaption>
        <h3>{title}</h3>
        {!properties.isBrief && <Legend lines={shown} cursor={cursor} formatX={formatX} />}
      </figcaption>
      <div
        ref={box}
        class="plot"
        role="img"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: keys zoom
        tabIndex={0}
        onKeyDown={(event) => {
          const scale = plot.current?.scales.x;
          if (!properties.onZoom || scale?.min === undefined || scale.max === undefined) return;
          const range = zoomedByKey(event.key, { from: scale.min, to: scale.max });
          if (range === undefined) return;
          event.preventDefault();
          properties.onZoom(range);
        }}
        aria-label={`${title} by ${xLabel.toLowerCase()}: ${describe(shown)}`}
      />
      <Values title={title} lines={shown} xLabel={xLabel} formatX={formatX} />
    </figure>
  );
}

/** Each line's columns as uPlot wants them: y, and the range behind it. */
function joinLines(lines: readonly Line[]): uPlot.AlignedData {
  if (lines.length === 0) return [[]];
  return uPlot.join(
    lines.map((line) => {
      const columns: uPlot.AlignedData = [line.x, line.y];
      if (line.low && line.high) columns.push(line.high, line.low);
      return columns;
    }),
  );
}

const PALE = 0.5;
const END: uPlot.Series.Points = {
  show: true,
  size: 7,
  filter: (plot, series) => [
    (plot.data[series] ?? []).findLastIndex((value) => value !== null && value !== undefined),
  ],
};

function optionsOf(
  latest: { current: Properties },
  width: number,
  cursor: { value: number | null },
): uPlot.Options {
  const { lines, sync, isLog, top, height } = latest.current;
  const formatX = latest.current.formatX ?? precise;
  const series: uPlot.Series[] = [{}];
  const bands: uPlot.Band[] = [];
  for (const line of lines) {
    const stroke = colorOf(line.color);
    series.push({
      stroke: line.faint ? withAlpha(stroke, 0.35) : line.pale ? withAlpha(stroke, PALE) : stroke,
      width: line.width ?? 1.5,
      dash: line.dash,
      spanGaps: true,
      points: line.hasEnd ? END : { show: line.x.length === 1 },
    });
    if (line.low && line.high) {
      bands.push({ series: [series.length, series.length + 1], fill: withAlpha(stroke, 0.12) });
      for (let edge = 0; edge < 2; edge++)
        series.push({ stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
    }
  }
  const axis = {
    stroke: colorOf("--muted"),
    grid: { stroke: colorOf("--line"), width: 1 },
    ticks: { stroke: colorOf("--line"), width: 1, size: 4 },
    font: "11px system-ui, DejaVu Sans, sans-serif",
  };
  return {
    width,
    height: height ?? 240,
    series,
    bands,
    legend: { show: false },
    cursor: {
      drag: { x: true, y: false, setScale: false },
      points: { size: 6 },
      ...(sync ? { sync: { key: sync, scales: ["x", null] as [string, null] } } : {}),
    },
    scales: {
      x: {
        time: false,
        range: (_, low, high) => {
          const zoom = latest.current.zoom;
          return zoom ? [zoom.from, zoom.to] : [low, high];
        },
      },
      y: {
        ...(isLog ? { distr: 3 } : {}),
        ...(top === undefined
          ? {}
          : { range: (_: uPlot, low: number) => [Math.min(low, 0), top] as [number, number] }),
      },
    },
    axes: [
      { ...axis, size: 34, values: (_, ticks) => ticks.map((tick) => formatX(tick)), space: 64 },
      {
        ...axis,
        size: 54,
        values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : precise(tick))),
      },
    ],
    hooks: {
      setCursor: [
        (plot) => {
          const index = plot.cursor.idx;
          cursor.value =
            index === null || index === undefined ? null : (plot.data[0][index] ?? null);
        },
      ],
      setSelect: [
        (plot) => {
          if (plot.select.width < 4) return;
          const from = plot.posToVal(plot.select.left, "x");
          const to = plot.posToVal(plot.select.left + plot.select.width, "x");
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          latest.current.onZoom?.({ from: Math.max(0, from), to });
        },
      ],
      ready: [
        (plot) => {
          plot.over.addEventListener("dblclick", () => latest.current.onZoom?.(null));
        },
      ],
    },
  };
}

function withAlpha(color: string, alpha: number): string {
  return color.replace(/^rgb\((.*)\)$/, `rgb($1, ${alpha})`);
}

function describe(lines: readonly Line[]): string {
  return lines.map((line) => `${line.label} ${precise(lastOf(line.y))}`).join(", ");
}

function lastOf(values: readonly (number | null)[]): number | null {
  return values.findLast((value) => value !== null) ?? null;
}

/** The value of a line at x: that of its nearest point before. */
function valueAt(line: Line, x: number | null): number | null {
  if (x === null) return lastOf(line.y);
  const index = line.x.findLastIndex((at) => at <= x);
  return index < 0 ? null : (line.y[index] ?? null);
}

function Legend(properties: {
  lines: readonly Line[];
  cursor: Signal<number | null>;
  formatX: (value: number) => string;
}) {
  const { lines, cursor, formatX } = properties;
  const at = cursor.value;
  return (
    <ul class="legend">
      {lines.map((line) => (
        <li>
          <Sample line={line} />
          {line.label} <strong>{precise(valueAt(line, at))}</strong>
        </li>
      ))}
      <li class="muted">{at === null ? "" : `at ${formatX(at)}`}</li>
    </ul>
  );
}

function Sample({ line }: { line: Line }) {
  return (
    <svg width="22" height="8" aria-hidden="true">
      <line
        x1="0"
        y1="4"
        x2="22"
        y2="4"
        style={{ stroke: `var(${line.color})` }}
        stroke-width={line.width ?? 1.5}
        stroke-dasharray={line.dash?.join(" ")}
        stroke-opacity={line.pale ? PALE : undefined}
      />
    </svg>
  );
}

const TABLE_ROWS = 100;

function Values(properties: {
  title: string;
  lines: readonly Line[];
  xLabel: string;
  formatX: (value: number) => string;
}) {
  const { title, lines, xLabel, formatX } = properties;
  const isOpen = useSignal(false);
  const [x = [], ...columns] = isOpen.value
    ? joinLines(lines.map(({ low, high, ...line }) => line))
    : [[]];
  return (
    <details onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
      <summary>Values</summary>
      {isOpen.value && (
        <ScrollRegion label={`${title}: values`} isCompact>
          <table>
            <thead>
              <tr>
                <th class="number">{xLabel}</th>
                {lines.map((line) => (
                  <th class="number">{line.label}</th>
                ))}
              </tr>
            </thead>
            <tbody>
              {picked(x.length, TABLE_ROWS).map((index) => (
                <tr>
                  <td class="number">{formatX(x[index] ?? 0)}</td>
                  {columns.map((column) => (
                    <td class="number">{precise(column[index])}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </ScrollRegion>
      )}
    </details>
  );
}

/** Parallel coordinates: a line for each trial; dragging, or keys, choose a range of an axis. */
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import {
  type Brushes,
  type Dimension,
  type End,
  isBrushed,
  movedByKey,
  type Value,
} from "../lib/parallel";

const HEIGHT = 280;
const TOP = 36;
const BOTTOM = 20;
const SIDE = 60;

interface Properties {
  rows: { id: string; values: Record<string, Value> }[];
  dimensions: Dimension[];
  brushes: Signal<Brushes>;
  pointed: Signal<string | null>;
}

export function ParallelCoordinates({ rows, dimensions, brushes, pointed }: Properties) {
  const box = useRef<HTMLDivElement>(null);
  const width = useSignal(800);
  useEffect(() => {
    if (!box.current) return;
    const observer = new ResizeObserver(([entry]) => {
      width.value = Math.max(entry?.contentRect.width ?? 800, dimensions.length * 110);
    });
    observer.observe(box.current);
    return () => observer.disconnect();
  }, [dimensions.length]);

  const left = (index: number) =>
    dimensions.length < 2
      ? width.value / 2
      : SIDE + (index * (width.value - 2 * SIDE)) / (dimensions.length - 1);
  const down = (at: number) => TOP + (1 - at) * (HEIGHT - TOP - BOTTOM);
  // The last axis is the metric: low values are blue.
  const metric = dimensions.at(-1);
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls must take the focus
    <section class="scroll parallel" tabIndex={0} aria-label="Parallel coordinates" ref={box}>
      {/* biome-ignore lint/a11y/useSemanticElements: SVG has no fieldset */}
      <svg width={width.value} height={HEIGHT} aria-label="Axes" role="group">
        <svg
          role="img"
          aria-label={`Fields and ${metric?.name} of ${rows.length} trials; the ranking has the values`}
        >
          {rows.map(({ id, values }) => {
            const points = dimensions.flatMap(({ name, locate }, index) => {
              const at = locate(values[name]);
              return at === null ? [] : [`${left(index)} ${down(at)}`];
            });
            if (points.length < 2) return null;
            const isOn = isBrushed(values, dimensions, brushes.value);
            const kind = pointed.value === id ? "pointed" : isOn ? "" : "off";
            const score = metric?.locate(values[metric.name]) ?? 1;
            return (
              <path
                key={id}
                class={`trial ${kind}`}
                d={`M${points.join("L")}`}
                style={{
                  stroke: `color-mix(in oklab, var(--plain) ${Math.round(100 * score)}%, var(--residual))`,
                }}
                onPointerEnter={() => {
                  pointed.value = id;
                }}
                onPointerLeave={() => {
                  pointed.value = null;
                }}
              />
            );
          })}
        </svg>
        {dimensions.map((dimension, index) => (
          <AxisOf key={dimension.name} {...{ dimension, brushes, down }} x={left(index)} />
        ))}
      </svg>
    </section>
  );
}

function AxisOf(properties: {
  dimension: Dimension;
  brushes: Signal<Brushes>;
  x: number;
  down: (at: number) => number;
}) {
  const { dimension, brushes, x, down } = properties;
  const start = useRef<number | null>(null);
  const range = brushes.value[dimension.name];

  const choose = (next: readonly [number, number] | null) => {
    const { [dimension.name]: _, ...others } = brushes.value;
    brushes.value = next ? { ...others, [dimension.name]: next } : others;
  };

  const positionAt = (event: PointerEvent) => {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    const at = 1 - (event.clientY - box.top) / box.height;
    // The ends have values on them.
    return at < 0.02 ? 0 : at > 0.98 ? 1 : at;
  };
  const drag = (event: PointerEvent) => {
    if (start.current === null) return;
    const [a, b] = [start.current, positionAt(event)];
    // A click removes the range.
    choose(Math.abs(a - b) < 0.01 ? null : [Math.min(a, b), Math.max(a, b)]);
  };
  return (
    <g>
      <path class="axis" d={`M${x} ${down(1)}V${down(0)}`} />
      <text x={x} y="14" text-anchor="middle">
        {dimension.name.split(".").at(-1)}
      </text>
      {dimension.labels.map(({ at, text }) => (
        <text class="tick" text-anchor="middle" x={x} y={down(at) + offsetOf(at)}>
          {text}
        </text>
      ))}
      {range && (
        <rect
          class="brush"
          x={x - 7}
          y={down(range[1])}
          width="14"
          height={down(range[0]) - down(range[1])}
        />
      )}
      <rect
        class="handle"
        data-axis={dimension.name}
        x={x - 12}
        y={down(1)}
        width="24"
        height={down(0) - down(1)}
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          start.current = positionAt(event);
        }}
        onPointerMove={drag}
        onPointerUp={(event) => {
          drag(event);
          start.current = null;
        }}
      />
      {ENDS.map(([end, name]) => (
        <EndOf key={name} {...{ dimension, range, end, name, x, down, choose }} />
      ))}
    </g>
  );
}

const ENDS: [End, string][] = [
  [0, "lowest"],
  [1, "highest"],
];

/** One end of the range of an axis, for the keyboard; the pointer drags along the axis. */
function EndOf(properties: {
  dimension: Dimension;
  range: readonly [number, number] | undefined;
  end: End;
  name: string;
  x: number;
  down: (at: number) => number;
  choose: (range: readonly [number, number] | null) => void;
}) {
  const { dimension, end, name, x, down, choose } = properties;
  const range = properties.range ?? [0, 1];
  const y = down(range[end]);
  // Outside of the range, so that the ends never cover each other.
  const tip = end === 0 ? y + 8 : y - 8;
  const percent = (at: number) => Math.round(100 * at);
  return (
    <path
      class={`end ${properties.range ? "" : "unset"}`}
      d={`M${x - 7} ${y}h14L${x} ${tip}Z`}
      role="slider"
      // In SVG, names of attributes are not in capitals.
      tabindex={0}
      aria-label={`${dimension.name}: ${name}`}
      aria-orientation="vertical"
      aria-valuemin={end === 0 ? 0 : percent(range[0])}
      aria-valuemax={end === 0 ? percent(range[1]) : 100}
      aria-valuenow={percent(range[end])}
      aria-valuetext={dimension.textAt(range[end])}
      onKeyDown={(event) => {
        const next = movedByKey(event.key, range, end, dimension.steps);
        if (next === undefined) return;
        event.preventDefault();
        choose(next);
      }}
    />
  );
}

/** Labels of the ends are beyond them, where no line is. */
function offsetOf(at: number): number {
  return at === 1 ? -6 : at === 0 ? 14 : 4;
}

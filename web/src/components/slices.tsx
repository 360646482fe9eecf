/** Slices of a search: for each searched field a chart of the metric against the field's value. */
import { type Signal, useSignal } from "@preact/signals";
import type { Schemas } from "../api/client";
import { precise } from "../lib/format";
import { categories, type Dimension, dimensionOf } from "../lib/parallel";
import { pointsOf, type SlicePoint } from "../lib/slices";
import { ScrollRegion } from "./scroll-region";

type Search = Schemas["SearchView"];
type Trial = Schemas["TrialView"];

const WIDTH = 320;
const HEIGHT = 190;
const LEFT = 46;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 34;

export function Slices(properties: {
  search: Search;
  trials: readonly Trial[];
  pointed: Signal<string | null>;
}) {
  const { search, trials, pointed } = properties;
  const chosen = useSignal(0);
  const metric = search.spec.metric[chosen.value];
  if (!metric) return null;
  return (
    <section class="section" aria-label="Slices">
      <header>
        <h2>Slices</h2>
        <span class="muted">{metric} against each field; a cross: stopped early</span>
        {search.spec.metric.length > 1 && (
          <label class="check controls">
            Metric
            <select
              value={chosen.value}
              onChange={(event) => {
                chosen.value = Number(event.currentTarget.value);
              }}
            >
              {search.spec.metric.map((name, index) => (
                <option value={index}>{name}</option>
              ))}
            </select>
          </label>
        )}
      </header>
      <div class="slices">
        {Object.entries(search.spec.space).map(([field, distribution]) => (
          <Slice key={field} {...{ field, distribution, metric, trials, pointed }} />
        ))}
      </div>
    </section>
  );
}

function Slice(properties: {
  field: string;
  distribution: object;
  metric: string;
  trials: readonly Trial[];
  pointed: Signal<string | null>;
}) {
  const { field, distribution, metric, trials, pointed } = properties;
  const points = pointsOf(trials, field, metric);
  const isCategorical = "choice" in distribution || "grid" in distribution;
  const isLog = "loguniform" in distribution || "lograndint" in distribution;
  const values = points.map(({ value }) => value);
  const x = isCategorical ? categories(field, values) : dimensionOf(field, values, isLog);
  const y = dimensionOf(
    metric,
    points.map(({ score }) => score),
    false,
  );
  // A point that is pointed at comes last, above the others.
  const ordered = points.toSorted(
    (a, b) => Number(a.id === pointed.value) - Number(b.id === pointed.value),
  );
  return (
    <figure class="chart slice" aria-label={field}>
      <figcaption>
        <h3>{field.split(".").at(-1)}</h3>
        {isLog && <span class="muted">logarithmic</span>}
      </figcaption>
      {points.length === 0 ? (
        <p class="muted">No trial has a value yet.</p>
      ) : (
        <>
          <svg
            viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
            role="img"
            aria-label={`${metric} by ${field}, ${points.length} trials; the values are below`}
          >
            <Axes x={x} y={y} />
            {ordered.map((point) => (
              <Mark
                key={point.id}
                point={point}
                left={leftOf(x.locate(point.value) ?? 0)}
                top={topOf(y.locate(point.score) ?? 0)}
                metric={metric}
                pointed={pointed}
              />
            ))}
          </svg>
          <Values {...{ field, metric, points }} />
        </>
      )}
    </figure>
  );
}

function leftOf(at: number): number {
  return LEFT + 8 + at * (WIDTH - LEFT - RIGHT - 16);
}

function topOf(at: number): number {
  return TOP + 6 + (1 - at) * (HEIGHT - TOP - BOTTOM - 12);
}

function Axes({ x, y }: { x: Dimension; y: Dimension }) {
  return (
    <>
      {y.labels.map(({ at, text }) => (
        <g>
          <path class="grid" d={`M${LEFT} ${topOf(at)}H${WIDTH - RIGHT}`} />
          <text x={LEFT - 6} y={topOf(at) + 4} text-anchor="end">
            {text}
          </text>
        </g>
      ))}
      {x.labels.map(({ at, text }) => (
        <g>
          <path class="grid" d={`M${leftOf(at)} ${TOP}V${HEIGHT - BOTTOM + 4}`} />
          <text
            x={leftOf(at)}
            y={HEIGHT - BOTTOM + 18}
            text-anchor={at === 1 && x.labels.length > 1 ? "end" : at === 0 ? "start" : "middle"}
          >
            {text}
          </text>
        </g>
      ))}
    </>
  );
}

function Mark(properties: {
  point: SlicePoint;
  left: number;
  top: number;
  metric: string;
  pointed: Signal<string | null>;
}) {
  const { point, left, top, metric, pointed } = properties;
  const kind = point.isStopped ? "stopped" : point.isBest ? "best" : "";
  const shared = {
    class: `trial ${kind} ${pointed.value === point.id ? "pointed" : ""}`,
    "data-trial": point.number,
    onPointerEnter: () => {
      pointed.value = point.id;
    },
    onPointerLeave: () => {
      pointed.value = null;
    },
  };
  const text = `trial ${point.number}: ${point.text}, ${metric} ${precise(point.score)}`;
  const title = <title>{point.isStopped ? `${text}, stopped early` : text}</title>;
  if (!point.isStopped)
    return (
      <circle cx={left} cy={top} r={point.isBest ? 5 : 4} {...shared}>
        {title}
      </circle>
    );
  return (
    <g {...shared}>
      {title}
      <rect x={left - 5} y={top - 5} width="10" height="10" />
      <path d={`M${left - 4} ${top - 4}l8 8m0-8l-8 8`} />
    </g>
  );
}

function Values({
  field,
  metric,
  points,
}: {
  field: string;
  metric: string;
  points: readonly SlicePoint[];
}) {
  const isOpen = useSignal(false);
  return (
    <details onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
      <summary>Values</summary>
      {isOpen.value && (
        <ScrollRegion label={`${field}: values`} isCompact>
          <table>
            <thead>
              <tr>
                <th>Trial</th>
                <th class="number">{field.split(".").at(-1)}</th>
                <th class="number">{metric}</th>
                <th>Stopped early</th>
              </tr>
            </thead>
            <tbody>
              {points.map((point) => (
                <tr>
                  <th scope="row">
                    <a href={`/jobs/${point.id}`}>trial {point.number}</a>
                  </th>
                  <td class="number">{point.text}</td>
                  <td class="number">{precise(point.score)}</td>
                  <td>{point.isStopped ? "yes" : ""}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </ScrollRegion>
      )}
    </details>
  );
}

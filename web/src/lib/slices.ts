/** The trials of a search as points: the metric against the value of one searched field. */
import type { Schemas } from "../api/client";
import { precise } from "./format";
import type { Value } from "./parallel";

type Trial = Schemas["TrialView"];

export interface SlicePoint {
  id: string;
  number: number;
  value: Value;
  text: string;
  score: number;
  isBest: boolean;
  isStopped: boolean;
}

/** Of the trials that have both values, in the order of the field's. */
export function pointsOf(trials: readonly Trial[], field: string, metric: string): SlicePoint[] {
  return trials
    .flatMap((trial): SlicePoint[] => {
      const value = trial.params[field] as Value | undefined;
      const score = (trial.values as Record<string, number>)[metric];
      if (value === undefined || score === undefined) return [];
      return [
        {
          id: trial.job_id,
          number: trial.number,
          value,
          text: typeof value === "number" ? precise(value) : String(value),
          score,
          isBest: trial.rank === 0,
          isStopped: trial.stop_reason !== null,
        },
      ];
    })
    .sort(({ value: a }, { value: b }) =>
      typeof a === "number" && typeof b === "number"
        ? a - b
        : String(a).localeCompare(String(b), "en", { numeric: true }),
    );
}

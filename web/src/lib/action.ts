/** Requests that a person makes with a button or a form, and what the service answered to them. */
import { type Signal, useSignal } from "@preact/signals";
import { ApiError } from "../api/client";

export interface Action {
  /** Of the last action; null: it succeeded. */
  failure: Signal<ApiError | null>;
  /** Whether it succeeded. */
  run: (action: () => Promise<unknown>) => Promise<boolean>;
}

export function useAction(): Action {
  const failure = useSignal<ApiError | null>(null);
  async function run(action: () => Promise<unknown>): Promise<boolean> {
    try {
      await action();
      failure.value = null;
      return true;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      failure.value = error;
      return false;
    }
  }
  return { failure, run };
}

/** Of the first wrong field, or of the request as a unit; undefined without an error. */
export function messageOf(error: ApiError | null): string | undefined {
  return error?.errors[0]?.message ?? error?.message;
}

/** What a page reads from the API, again at intervals while its tab is visible. */
import { type Signal, signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { ApiError } from "../api/client";
import { user } from "../session";

export interface Result<T> {
  data: T | undefined;
  error: ApiError | null;
}

/**
 * `key` names what is read: another key reads anew. `seconds`: between two reads; 0 reads once.
 * An error keeps the data of the last success.
 */
export function usePolled<T>(
  key: string,
  read: (previous: T | undefined) => Promise<T>,
  seconds: number,
): Signal<Result<T>> & { refresh: () => void } {
  const polled = useMemo(() => new Poll<T>(), [key]);
  useEffect(() => polled.run(read, seconds), [polled, seconds]);
  return Object.assign(polled.result, { refresh: polled.refresh });
}

class Poll<T> {
  result = signal<Result<T>>({ data: undefined, error: null });
  refresh = (): void => {};

  run(read: (previous: T | undefined) => Promise<T>, seconds: number): () => void {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isStopped = false;
    let isReading = false;
    const look = async () => {
      clearTimeout(timer);
      if (document.hidden || isReading) return;
      isReading = true;
      try {
        const data = await read(this.result.value.data);
        if (!isStopped) this.result.value = { data, error: null };
      } catch (error) {
        if (!isStopped) this.fail(error);
      } finally {
        isReading = false;
      }
      if (!isStopped && seconds > 0) timer = setTimeout(look, seconds * 1000);
    };
    this.refresh = look;
    document.addEventListener("visibilitychange", look);
    look();
    return () => {
      isStopped = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", look);
    };
  }

  private fail(error: unknown): void {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) user.value = null;
    else this.result.value = { data: this.result.value.data, error };
  }
}

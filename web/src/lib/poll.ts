/** What a page reads from the API, again at intervals while its tab is visible. */
import { type ReadonlySignal, signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { ApiError } from "../api/client";
import { session } from "../session";

export interface Polled<T> {
  data: ReadonlySignal<T | undefined>;
  /** Of the last read; the data of the last success stay. */
  error: ReadonlySignal<ApiError | null>;
  refresh: () => void;
}

/**
 * `key` names what is read: another key reads anew. `seconds`: between two reads; 0 reads once.
 */
export function usePolled<T>(key: string, read: () => Promise<T>, seconds: number): Polled<T> {
  // The key names what `read` reads.
  const poll = useMemo(() => new Poll(read), [key]);
  useEffect(() => poll.run(seconds), [poll, seconds]);
  return poll;
}

class Poll<T> {
  data = signal<T | undefined>(undefined);
  error = signal<ApiError | null>(null);
  refresh = (): void => {};

  constructor(private readonly read: () => Promise<T>) {}

  run(seconds: number): () => void {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isStopped = false;
    let isReading = false;
    const look = async () => {
      clearTimeout(timer);
      if (document.hidden || isReading || isStopped) return;
      isReading = true;
      try {
        const data = await this.read();
        if (!isStopped) {
          this.data.value = data;
          this.error.value = null;
        }
      } catch (error) {
        if (!isStopped) this.fail(error);
      }
      isReading = false;
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
    if (error.status === 401) session.value = null;
    else this.error.value = error;
  }
}

/** What a page shows, kept current over one connection: a browser opens six to a host at most. */
import { type ReadonlySignal, type Signal, signal } from "@preact/signals";
import { createFinalURL, createQuerySerializer, defaultPathSerializer } from "openapi-fetch";
import { useEffect, useMemo } from "preact/hooks";
import { ApiError, api, type Complete, read, toError } from "../api/client";
import type { paths } from "../api/schema";
import { session } from "../session";
import { exported, responseTo } from "./exported";

type Path =
  | "/v1/cluster"
  | "/v1/groups"
  | "/v1/jobs"
  | "/v1/jobs/{job_id}"
  | "/v1/jobs/{job_id}/analyses"
  | "/v1/jobs/{job_id}/attempts"
  | "/v1/jobs/{job_id}/checkpoints"
  | "/v1/jobs/{job_id}/envelope"
  | "/v1/jobs/{job_id}/events"
  | "/v1/jobs/{job_id}/lineage"
  | "/v1/jobs/{job_id}/logs"
  | "/v1/metrics"
  | "/v1/queue"
  | "/v1/runners"
  | "/v1/searches"
  | "/v1/searches/{search_id}"
  | "/v1/searches/{search_id}/trials"
  | "/v1/studies"
  | "/v1/studies/{study_id}";
type Get<P extends Path> = paths[P]["get"];
type Body<P extends Path> = Complete<Get<P>["responses"][200]["content"]["application/json"]>;
type Parameters<P extends Path> = Pick<Get<P>["parameters"], "path" | "query">;

export interface Source<T> {
  url: string;
  /** The state of the page after a body that continues the earlier ones. */
  merge: (before: T | undefined, next: T) => T;
}

export interface Live<T> {
  data: ReadonlySignal<T | undefined>;
  /** Of the last response; the data of the last success stay. */
  error: ReadonlySignal<ApiError | null>;
}

const serializeQuery = createQuerySerializer();

/** A GET request. Without `merge`, each body takes the place of the one before. */
export function source<P extends Path>(
  path: P,
  params: Parameters<P>,
  merge: Source<Body<P>>["merge"] = (_, next) => next,
): Source<Body<P>> {
  const url = createFinalURL(path, {
    baseUrl: "",
    params,
    querySerializer: serializeQuery,
    pathSerializer: defaultPathSerializer,
  });
  return { url, merge };
}

/** The body of the request, now and whenever it changes. */
export function useLive<T>({ url, merge }: Source<T>): Live<T> {
  // The address says what is read, and with it how bodies continue.
  const entry = useMemo(() => new Entry(url, merge), [url]);
  useEffect(() => {
    if (!exported) return stream.follow(entry as Entry<unknown>);
    const body = responseTo(url);
    if (body !== undefined) entry.accept(200, body);
    return undefined;
  }, [entry]);
  return entry;
}

type Data<L> = { [K in keyof L]: L[K] extends Live<infer T> ? T : never };

/** The data of several sources once all of them are there. */
export function dataOf<L extends Record<string, Live<unknown>>>(live: L): Data<L> | undefined {
  const found = Object.entries(live).map(([name, { data }]) => [name, data.value] as const);
  if (found.some(([, data]) => data === undefined)) return undefined;
  return Object.fromEntries(found) as Data<L>;
}

/** The first error of several sources. */
export function errorOf(live: Record<string, Live<unknown>>): ApiError | null {
  return Object.values(live).find(({ error }) => error.value)?.error.value ?? null;
}

class Entry<T> {
  readonly data: Signal<T | undefined> = signal(undefined);
  readonly error = signal<ApiError | null>(null);
  private after: string | null = null;

  constructor(
    private readonly url: string,
    private readonly merge: Source<T>["merge"],
  ) {}

  /** The address of what is not known yet. */
  get address(): string {
    if (this.after === null) return this.url;
    const after = `after=${encodeURIComponent(this.after)}`;
    return `${this.url}${this.url.includes("?") ? "&" : "?"}${after}`;
  }

  accept(status: number, body: unknown): void {
    if (status !== 200) {
      this.error.value = toError(status, body);
      return;
    }
    const next = (body as { next?: string | number }).next;
    if (next !== undefined) this.after = String(next);
    this.data.value = this.merge(this.data.value, body as T);
    this.error.value = null;
  }
}

interface Message {
  read: number;
  status: number;
  body: unknown;
}

const RETRY_MILLISECONDS = 1000;

class Stream {
  private readonly entries = new Set<Entry<unknown>>();
  private connection: EventSource | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    // A hidden tab needs no connection, and other tabs need those that are left.
    document.addEventListener("visibilitychange", () => this.openAfter(0));
  }

  follow(entry: Entry<unknown>): () => void {
    this.entries.add(entry);
    this.openAfter(0);
    return () => {
      this.entries.delete(entry);
      this.openAfter(0);
    };
  }

  /** Once for all the changes of one rendering. */
  private openAfter(milliseconds: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), milliseconds);
  }

  private open(): void {
    this.connection?.close();
    this.connection = null;
    if (document.hidden || this.entries.size === 0) return;
    const entries = [...this.entries];
    const query = new URLSearchParams(entries.map((entry) => ["read", entry.address]));
    const connection = new EventSource(`/v1/stream?${query}`);
    connection.addEventListener("response", ({ data }: MessageEvent<string>) => {
      const { read: index, status, body } = JSON.parse(data) as Message;
      if (status === 401) session.value = null;
      else entries[index]?.accept(status, body);
    });
    connection.onerror = () => this.reopen(connection);
    this.connection = connection;
  }

  /** With what is known by now in the addresses, which a browser would not change. */
  private async reopen(connection: EventSource): Promise<void> {
    connection.close();
    try {
      await read(api.GET("/v1/session"));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401) session.value = null;
      for (const entry of this.entries) entry.error.value = error;
    }
    if (this.connection === connection) this.openAfter(RETRY_MILLISECONDS);
  }
}

const stream = new Stream();

/** What the page of jobs shows: running and waiting jobs completely, finished ones page by page. */
import { signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { ApiError, api, read, type Schemas } from "../api/client";
import { FINISHED, LISTED_FIELDS, type ListedJob, RUNNING, sorted, WAITING } from "./jobs";
import { dataOf, errorOf, source, useLive } from "./live";

export interface Filters {
  text: string;
  dataset: string;
  tag: string;
  where: string;
  archived: boolean;
}

export interface Listing {
  running: ListedJob[];
  waiting: ListedJob[];
  reasons: Map<string, Schemas["QueueStatusView"]>;
  finished: ListedJob[];
  /** Whether there are further finished jobs. */
  hasMore: boolean;
}

/** The first page is small, so that it is shown soon; the list is longer than most windows. */
const FIRST_PAGE = 100;
const PAGE = 500;
/** Finished jobs that are kept current: those that ended last. */
const RECENT = 50;

/** `sort`: of finished jobs, as the API has it; null: in the order of submission. */
export function useListing(filters: Filters, sort: string | null) {
  const query = queryOf(filters);
  const live = {
    running: useLive(source("/v1/jobs", { query: { ...query, state: [...RUNNING], limit: 1000 } })),
    waiting: useLive(source("/v1/jobs", { query: { ...query, state: [...WAITING], limit: 1000 } })),
    queue: useLive(source("/v1/queue", { query: { limit: 500 } })),
    recent: useLive(
      source("/v1/jobs", {
        query: { ...query, state: [...FINISHED], sort: "-finished_at", limit: RECENT },
      }),
    ),
  };
  const key = JSON.stringify([query, sort]);
  const pages = useMemo(() => new Pages({ ...query, sort: sort ?? undefined }), [key]);
  useEffect(() => {
    pages.readMore();
  }, [pages]);
  const data = dataOf(live);
  const older = pages.jobs.value;
  const listing = useMemo((): Listing | undefined => {
    if (!data || !older) return undefined;
    const order = new Map(data.queue.jobs.map((job, index) => [job.job_id, index]));
    // Ids are in the order of submission.
    const finished = new Map(
      [...older, ...(data.recent.jobs as ListedJob[])].map((job) => [job.id, job]),
    );
    return {
      running: data.running.jobs as ListedJob[],
      waiting: sorted(data.waiting.jobs as ListedJob[], (job) => order.get(job.id) ?? null, false),
      reasons: new Map(data.queue.jobs.map((job) => [job.job_id, job.waiting])),
      finished: [...finished.values()].sort((left, right) => (left.id < right.id ? 1 : -1)),
      hasMore: pages.hasMore,
    };
  }, [data?.running, data?.waiting, data?.queue, data?.recent, older]);
  return { listing, error: errorOf(live) ?? pages.error.value, readMore: pages.readMore };
}

type Query = ReturnType<typeof queryOf>;

function queryOf(filters: Filters) {
  return {
    text: filters.text || undefined,
    dataset: filters.dataset || undefined,
    tag: filters.tag ? [filters.tag] : undefined,
    where: filters.where ? filters.where.split(/\s+/).filter(Boolean) : undefined,
    archived: filters.archived || undefined,
    fields: LISTED_FIELDS,
  };
}

class Pages {
  readonly jobs = signal<ListedJob[] | undefined>(undefined);
  readonly error = signal<ApiError | null>(null);
  hasMore = true;
  private token: string | undefined;
  private isReading = false;

  constructor(private readonly query: Query & { sort: string | undefined }) {}

  readonly readMore = async (): Promise<void> => {
    if (!this.hasMore || this.isReading) return;
    this.isReading = true;
    try {
      const limit = this.token ? PAGE : FIRST_PAGE;
      const query = { ...this.query, state: [...FINISHED], limit, page_token: this.token };
      const page = await read(api.GET("/v1/jobs", { params: { query } }));
      this.token = page.next_page_token ?? undefined;
      this.hasMore = this.token !== undefined;
      this.jobs.value = [...(this.jobs.value ?? []), ...(page.jobs as ListedJob[])];
      this.error.value = null;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.error.value = error;
    } finally {
      this.isReading = false;
    }
  };
}

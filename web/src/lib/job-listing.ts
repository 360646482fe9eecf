/** What the page of jobs reads: running and waiting jobs completely, finished ones page by page. */
import type { Signal } from "@preact/signals";
import { ApiError, api, type Job, read, type Schemas } from "../api/client";
import { FINISHED, isFinished, RUNNING, sorted, WAITING } from "./jobs";

export interface Listing {
  running: Job[];
  waiting: Job[];
  reasons: Map<string, Schemas["QueueStatusView"]>;
  finished: Job[];
  next: string | null;
}

const PAGE = 500;

function listJobs(
  filters: Record<string, string>,
  states: readonly Job["state"][],
  limit: number,
  token?: string,
) {
  return read(
    api.GET("/v1/jobs", {
      params: {
        query: {
          state: [...states],
          name: filters.name || undefined,
          dataset: filters.dataset || undefined,
          tag: filters.tag ? [filters.tag] : undefined,
          page_token: token,
          limit,
        },
      },
    }),
  );
}

export async function readListing(
  filters: Record<string, string>,
  latest: () => Listing | undefined,
): Promise<Listing> {
  const [running, waiting, queue] = await Promise.all([
    listJobs(filters, RUNNING, 1000),
    listJobs(filters, WAITING, 1000),
    read(api.GET("/v1/queue", { params: { query: { limit: 500 } } })),
  ]);
  const reasons = new Map(queue.jobs.map((job) => [job.job_id, job.waiting]));
  const order = new Map(queue.jobs.map((job, index) => [job.job_id, index]));
  const active = {
    running: running.jobs,
    waiting: sorted(waiting.jobs, (job) => order.get(job.id) ?? null, false),
    reasons,
  };
  // Finished jobs do not change. New ones were active until now, or came and went between two reads.
  const isActive = new Set([...running.jobs, ...waiting.jobs].map((job) => job.id));
  const before = latest();
  const ended = [...(before?.running ?? []), ...(before?.waiting ?? [])].filter(
    (job) => !isActive.has(job.id),
  );
  const [page, ...jobs] = await Promise.all([
    listJobs(filters, FINISHED, before ? 20 : PAGE),
    ...ended.map((job) =>
      read(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: job.id } } })),
    ),
  ]);
  const fresh = [...page.jobs, ...jobs.filter(isFinished)];
  // Further pages may have come in the meantime.
  const previous = latest();
  const finished = new Map([...fresh, ...(previous?.finished ?? [])].map((job) => [job.id, job]));
  return {
    ...active,
    // Ids are in the order of submission.
    finished: [...finished.values()].sort((left, right) => (left.id < right.id ? 1 : -1)),
    next: previous ? previous.next : page.next_page_token,
  };
}

let isReadingMore = false;

export async function readMore(
  filters: Record<string, string>,
  listing: Signal<Listing | undefined>,
): Promise<void> {
  const before = listing.value;
  if (!before?.next || isReadingMore) return;
  isReadingMore = true;
  try {
    const page = await listJobs(filters, FINISHED, PAGE, before.next);
    const now = listing.value;
    if (now?.next === before.next)
      listing.value = {
        ...now,
        finished: [...now.finished, ...page.jobs.filter(isFinished)],
        next: page.next_page_token,
      };
  } catch (error) {
    // The next look at the list shows it.
    if (!(error instanceof ApiError)) throw error;
  } finally {
    isReadingMore = false;
  }
}

/** Who is signed in, and what that permits. The cookie itself is out of reach of scripts. */
import { computed, signal } from "@preact/signals";
import { ApiError, api, read, type Schemas } from "./api/client";

export type Session = Schemas["SessionView"];

/** null: signed out; undefined: not known yet. */
export const session = signal<Session | null | undefined>(undefined);

/** Why it cannot be known. */
export const sessionError = signal<ApiError | null>(null);

/** As the service's rules say, so that only what it permits is offered. */
export const maySubmit = computed(
  () =>
    !!session.value &&
    session.value.role !== "viewer" &&
    ["submit", "full"].includes(session.value.scope),
);

export const isAdmin = computed(
  () => session.value?.role === "admin" && session.value.scope === "full",
);

/** Whether the person may change, cancel and delete what this person owns. */
export function mayChange(owner: string): boolean {
  const found = session.value;
  if (found?.scope !== "full") return false;
  return found.role === "admin" || (found.role === "member" && found.user === owner);
}

export async function loadSession(): Promise<void> {
  try {
    session.value = await read(api.GET("/v1/session"));
    sessionError.value = null;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) session.value = null;
    else sessionError.value = error;
  }
}

export async function signIn(token: string): Promise<Session> {
  const opened = await read(api.POST("/v1/session", { body: { token } }));
  session.value = opened;
  return opened;
}

/** The page of what a link shows. */
export function addressOf({ jobs, study }: Pick<Schemas["ShareView"], "jobs" | "study">): string {
  if (study) return `/studies/${study}`;
  if (jobs.length === 1) return `/jobs/${jobs[0]}`;
  return `/compare?${new URLSearchParams(jobs.map((job) => ["job", job]))}`;
}

export async function signOut(): Promise<void> {
  await read(api.DELETE("/v1/session"));
  session.value = null;
}

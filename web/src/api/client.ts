/** The API with its types, and its errors as exceptions. */
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Job = Schemas["JobView"];
export type JobState = Schemas["JobState"];

export interface FieldError {
  pointer: string;
  message: string;
}

/** A response that is no success, or none at all (status 0). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly errors: FieldError[] = [],
    readonly requestId: string | null = null,
  ) {
    super(message);
  }
}

/** The error of a response with a problem (RFC 9457) as its body. */
export function toError(status: number, body: unknown): ApiError {
  const problem = body as { detail?: string; errors?: FieldError[]; request_id?: string };
  const message = problem.detail ?? `The service answered ${status}.`;
  return new ApiError(status, message, problem.errors, problem.request_id);
}

// The header shows the service that the request comes from this page and no other site's.
const client = createClient<paths, "application/json">({
  headers: { "X-Requested-With": "resnetd-dashboard" },
});
client.use({
  onError: () => new ApiError(0, "The service does not respond."),
  onResponse: async ({ response }) => {
    if (response.ok) return undefined;
    throw toError(response.status, await response.json().catch(() => ({})));
  },
});

export const api = client;

/** The body of a request without `fields`. */
export type Complete<T> = T extends { jobs: (infer J)[] }
  ? string extends keyof J
    ? never
    : T
  : T extends { searches: (infer S)[] }
    ? string extends keyof S
      ? never
      : T
    : T;

/** The body of a successful response. */
export async function read<T>(response: Promise<{ data?: T }>): Promise<Complete<T>> {
  return (await response).data as Complete<T>;
}

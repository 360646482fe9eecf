/** Who is signed in. The cookie itself is out of reach of scripts. */
import { signal } from "@preact/signals";
import { ApiError, api, read } from "./api/client";

/** The name of the token; null: signed out; undefined: not known yet. */
export const user = signal<string | null | undefined>(undefined);

/** Why it cannot be known. */
export const sessionError = signal<ApiError | null>(null);

export async function loadSession(): Promise<void> {
  try {
    user.value = (await read(api.GET("/v1/session"))).user;
    sessionError.value = null;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) user.value = null;
    else sessionError.value = error;
  }
}

export async function signIn(token: string): Promise<void> {
  user.value = (await read(api.POST("/v1/session", { body: { token } }))).user;
}

export async function signOut(): Promise<void> {
  await read(api.DELETE("/v1/session"));
  user.value = null;
}

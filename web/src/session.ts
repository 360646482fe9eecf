/** Who is signed in. The cookie itself is out of reach of scripts. */
import { signal } from "@preact/signals";
import { api, read } from "./api/client";

/** The name of the token; null: signed out; undefined: not known yet. */
export const user = signal<string | null | undefined>(undefined);

export async function loadSession(): Promise<void> {
  try {
    user.value = (await read(api.GET("/v1/session"))).user;
  } catch {
    user.value = null;
  }
}

export async function signIn(token: string): Promise<void> {
  user.value = (await read(api.POST("/v1/session", { body: { token } }))).user;
}

export async function signOut(): Promise<void> {
  await read(api.DELETE("/v1/session"));
  user.value = null;
}

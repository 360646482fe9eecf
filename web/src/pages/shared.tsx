/** Opens a link that somebody shared: its secret is in the fragment, which no server logs. */
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError } from "../api/client";
import { ErrorNote } from "../components/notes";
import { navigate } from "../lib/route";
import { useTitle } from "../lib/title";
import { addressOf, session, signIn } from "../session";

export function SharedPage() {
  useTitle("Shared");
  const failure = useSignal<ApiError | null>(null);
  const secret = location.hash.slice(1);
  const signedIn = session.value && !session.value.shared ? session.value.user : null;

  async function open() {
    try {
      const opened = await signIn(secret);
      navigate(opened.shared ? addressOf(opened.shared) : "/", "replace");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      failure.value = error;
    }
  }

  useEffect(() => {
    if (session.value === null || session.value?.shared) open();
  }, [session.value]);

  return (
    <main class="sign-in">
      <h1>Shared</h1>
      {failure.value ? (
        failure.value.status === 401 ? (
          <p>The link has expired or was revoked. Ask whoever sent it for another one.</p>
        ) : (
          <ErrorNote error={failure.value} />
        )
      ) : (
        signedIn && (
          <>
            <p>You are signed in as {signedIn}. Opening the link signs you out in this browser.</p>
            <button type="button" class="primary" onClick={open}>
              Open the link
            </button>
            <a href="/">Stay signed in</a>
          </>
        )
      )}
    </main>
  );
}

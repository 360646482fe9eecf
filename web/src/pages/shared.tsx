/** Opens a shared link: its secret is in the fragment, which no server logs. */
import { useEffect } from "preact/hooks";
import { ErrorNote } from "../components/notes";
import { useAction } from "../lib/action";
import { navigate } from "../lib/route";
import { useTitle } from "../lib/title";
import { addressOf, session, signIn } from "../session";

export function SharedPage() {
  useTitle("Shared");
  const { failure, run } = useAction();
  const secret = location.hash.slice(1);
  const signedIn = session.value && !session.value.shared ? session.value.user : null;

  const open = () =>
    run(async () => {
      const opened = await signIn(secret);
      navigate(opened.shared ? addressOf(opened.shared) : "/", "replace");
    });

  useEffect(() => {
    if (session.value === null || session.value?.shared) open();
  }, [session.value]);

  return (
    <main class="sign-in">
      <h1>Shared</h1>
      {failure.value ? (
        failure.value.status === 401 ? (
          <p>The link has expired or was revoked. Ask the sender for another one.</p>
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

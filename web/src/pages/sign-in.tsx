/** Signing in with a token. */
import { useSignal } from "@preact/signals";
import { ApiError } from "../api/client";
import { useTitle } from "../lib/title";
import { signIn } from "../session";

export function SignInPage() {
  useTitle("Sign in");
  const error = useSignal<string | null>(null);
  const isBusy = useSignal(false);

  async function submit(event: SubmitEvent) {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    isBusy.value = true;
    try {
      await signIn(String(form.get("token")));
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      error.value =
        failure.status === 401 ? "The service does not know this token." : failure.message;
    } finally {
      isBusy.value = false;
    }
  }

  return (
    <main class="sign-in">
      <h1>Sign in to resnetd</h1>
      <form onSubmit={submit}>
        <div class="field">
          <label for="token">Token</label>
          <input
            id="token"
            name="token"
            type="password"
            autocomplete="current-password"
            required
            aria-invalid={error.value !== null}
            aria-describedby="token-help"
          />
          {error.value && (
            <span class="bad" role="alert">
              {error.value}
            </span>
          )}
        </div>
        <button type="submit" class="primary" disabled={isBusy.value}>
          Sign in
        </button>
      </form>
      <p class="muted" id="token-help">
        The administrator's token is in the file <code>token</code> of the service's directory (
        <code>RESNETD_TOKEN_FILE</code>). Others get theirs from an admin:{" "}
        <code>resnetd people add NAME</code>.
      </p>
    </main>
  );
}

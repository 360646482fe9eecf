/** What a page shows in place of data: errors, and what to do where there is nothing yet. */
import type { ComponentChildren } from "preact";
import type { ApiError } from "../api/client";

export function ErrorNote({ error }: { error: ApiError | null }) {
  if (!error) return null;
  return (
    <div class="note error" role="alert">
      <p>{error.message}</p>
      {error.errors.map(({ pointer, message }) => (
        <p>
          <code>{pointer}</code> {message}
        </p>
      ))}
      <p class="muted">
        {error.status === 0
          ? "The page tries again by itself. Check that the API runs and that the network is up."
          : error.requestId && (
              <>
                The server's log has the request <code>{error.requestId}</code>.
              </>
            )}
      </p>
    </div>
  );
}

export function EmptyNote({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="note">
      <p>{title}</p>
      {children && <p class="muted">{children}</p>}
    </div>
  );
}

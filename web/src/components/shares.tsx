/** Links that the person shares: listed and revoked. */
import { useSignal } from "@preact/signals";
import { ApiError, api, read, type Schemas } from "../api/client";
import { time } from "../lib/format";
import { usePolled } from "../lib/poll";
import { addressOf } from "../session";
import { EmptyNote, ErrorNote } from "./notes";

type Share = Schemas["ShareView"];

export function Shares() {
  const polled = usePolled("shares", () => read(api.GET("/v1/shares")), 0);
  const failure = useSignal<ApiError | null>(null);
  const found = polled.data.value?.shares;

  async function revoke(share: Share) {
    if (!confirm(`Revoke the link to ${share.label}?`)) return;
    try {
      const params = { path: { share_id: share.id } };
      await read(api.DELETE("/v1/shares/{share_id}", { params }));
      failure.value = null;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      failure.value = error;
    }
    polled.refresh();
  }

  return (
    <section class="section">
      <h2>Shared links</h2>
      <ErrorNote error={polled.error.value ?? failure.value} />
      {found?.length === 0 && (
        <EmptyNote title="No links.">
          The pages of jobs, comparisons and studies have a button Share.
        </EmptyNote>
      )}
      {found && found.length > 0 && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls must take the focus
        <section class="scroll" tabIndex={0} aria-label="Shared links">
          <table>
            <thead>
              <tr>
                <th>Shows</th>
                <th>Of</th>
                <th>Created</th>
                <th>Expires</th>
                <th>Last used</th>
                <th>
                  <span class="hidden-visually">Actions</span>
                </th>
              </tr>
            </thead>
            <tbody>
              {found.map((share) => (
                <tr key={share.id}>
                  <th scope="row">
                    <a href={addressOf(share)}>{share.label}</a>
                  </th>
                  <td>{share.user}</td>
                  <td>{time(share.created_at)}</td>
                  <td>{time(share.expires_at)}</td>
                  <td>{share.last_used_at ? time(share.last_used_at) : "never"}</td>
                  <td>
                    <button type="button" class="quiet danger" onClick={() => revoke(share)}>
                      Revoke<span class="hidden-visually"> {share.label}</span>
                    </button>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </section>
  );
}

/** Links that the person shares: listed and revoked. */
import { api, read, type Schemas } from "../api/client";
import { useAction } from "../lib/action";
import { time } from "../lib/format";
import { usePolled } from "../lib/poll";
import { addressOf } from "../session";
import { EmptyNote, ErrorNote } from "./notes";
import { ActionsHeading, ShortTable } from "./short-table";

type Share = Schemas["ShareView"];

export function Shares() {
  const polled = usePolled("shares", () => read(api.GET("/v1/shares")), 0);
  const { failure, run } = useAction();
  const found = polled.data.value?.shares;

  async function revoke(share: Share) {
    if (!confirm(`Revoke the link to ${share.label}?`)) return;
    const params = { path: { share_id: share.id } };
    await run(() => read(api.DELETE("/v1/shares/{share_id}", { params })));
    polled.refresh();
  }

  return (
    <section class="section">
      <h2>Shared links</h2>
      <ErrorNote error={polled.error.value ?? failure.value} />
      <ShortTable
        label="Shared links"
        rows={found}
        note={
          <EmptyNote title="No links.">
            The pages of jobs, comparisons and studies have a button Share.
          </EmptyNote>
        }
        headings={
          <>
            <th>Shows</th>
            <th>Of</th>
            <th>Created</th>
            <th>Expires</th>
            <th>Last used</th>
            <ActionsHeading />
          </>
        }
      >
        {(share) => (
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
        )}
      </ShortTable>
    </section>
  );
}

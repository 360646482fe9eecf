/** The log of the deliveries of a webhook or an alert. */
import type { Schemas } from "../api/client";
import { time } from "../lib/format";

export function Deliveries({ deliveries }: { deliveries: readonly Schemas["DeliveryView"][] }) {
  if (deliveries.length === 0) return null;
  return (
    <details>
      <summary>Deliveries</summary>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls must take the focus */}
      <section class="scroll values" tabIndex={0} aria-label="Deliveries">
        <table>
          <thead>
            <tr>
              <th>At</th>
              <th>About</th>
              <th>State</th>
              <th class="number">Tries</th>
              <th>Response</th>
            </tr>
          </thead>
          <tbody>
            {deliveries.map((delivery) => (
              <tr key={delivery.id}>
                <td>{time(delivery.created_at)}</td>
                <td>{String(delivery.payload.type)}</td>
                <td>{delivery.state}</td>
                <td class="number">{delivery.tries}</td>
                <td>{delivery.error ?? delivery.status ?? "–"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
    </details>
  );
}

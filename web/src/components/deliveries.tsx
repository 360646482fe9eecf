/** The log of the deliveries of a webhook or an alert. */
import type { Schemas } from "../api/client";
import { time } from "../lib/format";
import { ScrollRegion } from "./scroll-region";

export function Deliveries({ deliveries }: { deliveries: readonly Schemas["DeliveryView"][] }) {
  if (deliveries.length === 0) return null;
  return (
    <details>
      <summary>Deliveries</summary>
      <ScrollRegion label="Deliveries" isCompact>
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
      </ScrollRegion>
    </details>
  );
}

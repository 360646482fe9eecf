/** A webhook or an alert: what it is, buttons to test and delete it, and its deliveries. */
import type { ComponentChildren } from "preact";
import type { Schemas } from "../api/client";
import { useAction } from "../lib/action";
import { usePolled } from "../lib/poll";
import { Deliveries } from "./deliveries";
import { ErrorNote } from "./notes";

interface Properties {
  id: string;
  /** As a question to the person names it. */
  name: string;
  children: ComponentChildren;
  readDeliveries: () => Promise<Schemas["DeliveryList"]>;
  test: () => Promise<unknown>;
  remove: () => Promise<unknown>;
  onChange: () => void;
}

export function Receiver(properties: Properties) {
  const { name, test, remove, onChange } = properties;
  const { failure, run } = useAction();
  const log = usePolled(properties.id, properties.readDeliveries, 5);

  async function send() {
    await run(async () => {
      await test();
      log.refresh();
    });
    onChange();
  }

  async function ask() {
    if (!confirm(`Delete the ${name}?`)) return;
    await run(remove);
    onChange();
  }

  return (
    <div class="note">
      <div class="row">
        {properties.children}
        <button type="button" onClick={send}>
          Send a test
        </button>
        <button type="button" class="danger" onClick={ask}>
          Delete
        </button>
      </div>
      <ErrorNote error={failure.value ?? log.error.value} />
      <Deliveries deliveries={log.data.value?.deliveries ?? []} />
    </div>
  );
}

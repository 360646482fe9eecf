/** The state of a job or search: a mark and its name. */
const KIND: Record<string, string> = {
  running: "running",
  starting: "running",
  stopping: "running",
  succeeded: "succeeded",
  failed: "failed",
  cancelled: "ended",
};

export function State({ state }: { state: string }) {
  return (
    <span class={`state ${KIND[state] ?? "waiting"}`}>
      <span>{state}</span>
    </span>
  );
}

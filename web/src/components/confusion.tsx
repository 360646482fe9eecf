/** Which classes a finished network confuses, from the predictions that it keeps; read when opened. */
import { useSignal } from "@preact/signals";
import { api, read, type Schemas } from "../api/client";
import { number, percent } from "../lib/format";
import { usePolled } from "../lib/poll";
import { EmptyNote, ErrorNote } from "./notes";
import { ScrollRegion } from "./scroll-region";

/** A matrix of more classes cannot be read on a screen. */
const MATRIX_CLASSES = 25;

export function Confusion({ jobId }: { jobId: string }) {
  const isOpen = useSignal(false);
  return (
    <section class="section">
      <details onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
        <summary>
          <h2 class="inline">Errors by class</h2>
        </summary>
        {isOpen.value && <Counts jobId={jobId} />}
      </details>
    </section>
  );
}

function Counts({ jobId }: { jobId: string }) {
  const params = { path: { job_id: jobId } };
  const polled = usePolled(
    `confusion:${jobId}`,
    () => read(api.GET("/v1/jobs/{job_id}/confusion", { params })),
    0,
  );
  const found = polled.data.value;
  const names = (found?.class_images ?? []).map(
    (_, label) => found?.class_names[label] ?? String(label),
  );
  return (
    <>
      <ErrorNote error={polled.error.value} />
      {found && (
        <>
          <p class="muted">
            {number(found.images)} test images at the last iteration; rows are the classes of the
            images, columns the predicted ones.
          </p>
          {found.matrix && found.matrix.length <= MATRIX_CLASSES && (
            <Matrix found={found} names={names} matrix={found.matrix} />
          )}
          <Pairs found={found} names={names} />
        </>
      )}
    </>
  );
}

type Found = Schemas["ConfusionView"];

function Matrix({ found, names, matrix }: { found: Found; names: string[]; matrix: number[][] }) {
  return (
    <ScrollRegion label="Confusion matrix">
      <table class="confusion">
        <thead>
          <tr>
            <th>Class</th>
            {names.map((name) => (
              <th class="number">{name}</th>
            ))}
            <th class="number">Error</th>
          </tr>
        </thead>
        <tbody>
          {matrix.map((row, label) => (
            <tr>
              <th scope="row">{names[label]}</th>
              {row.map((images, predicted) => (
                <td
                  class={label === predicted ? "number right" : "number wrong"}
                  style={{ "--share": images / Math.max(1, found.class_images[label] ?? 1) }}
                >
                  {images === 0 ? "" : number(images)}
                </td>
              ))}
              <td class="number">{percent(found.class_errors[label])}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollRegion>
  );
}

function Pairs({ found, names }: { found: Found; names: string[] }) {
  if (found.most_confused.length === 0)
    return (
      <EmptyNote title="No test image has a wrong class.">There is nothing to list.</EmptyNote>
    );
  return (
    <details>
      <summary>Most confused classes</summary>
      <ol>
        {found.most_confused.map(({ label, predicted, images }) => (
          <li>
            {names[label]} as {names[predicted]}: {number(images)}
          </li>
        ))}
      </ol>
    </details>
  );
}

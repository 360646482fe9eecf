/** The names of a dataset's classes in the order of their labels, read when they are opened. */
import { useSignal } from "@preact/signals";
import { api, read } from "../api/client";
import { usePolled } from "../lib/poll";
import { EmptyNote, ErrorNote } from "./notes";

export function ClassNames({ dataset }: { dataset: string }) {
  const isOpen = useSignal(false);
  return (
    <section class="section">
      <details onToggle={(event) => (isOpen.value = event.currentTarget.open)}>
        <summary>
          <h2 class="inline">Classes</h2>
        </summary>
        {isOpen.value && <Names dataset={dataset} />}
      </details>
    </section>
  );
}

function Names({ dataset }: { dataset: string }) {
  const polled = usePolled("datasets", () => read(api.GET("/v1/datasets")), 0);
  const found = polled.data.value?.datasets.find(({ name }) => name === dataset);
  return (
    <>
      <ErrorNote error={polled.error.value} />
      {polled.data.value && !found?.class_names && (
        <EmptyNote title="Their names are not known to the API.">
          It has those of built-in datasets, and of image folders in its data directory.
        </EmptyNote>
      )}
      {found?.class_names && (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls must take the focus
        <ol class="classes" tabIndex={0} aria-label="Classes" start={0}>
          {found.class_names.map((name) => (
            <li>{name}</li>
          ))}
        </ol>
      )}
    </>
  );
}

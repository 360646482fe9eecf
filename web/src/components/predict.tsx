/** What the job's exported network sees on a picture that is chosen or dropped here. */
import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { api, read, type Schemas } from "../api/client";
import { messageOf, useAction } from "../lib/action";
import { percent } from "../lib/format";
import { Field } from "./field";
import { ScrollRegion } from "./scroll-region";

interface Chosen {
  file: File;
  /** Null until the service has answered. */
  classes: Schemas["ClassProbabilityView"][] | null;
}

export function Predict({ jobId }: { jobId: string }) {
  const { failure, run } = useAction();
  const chosen = useSignal<Chosen | null>(null);
  const isOver = useSignal(false);
  const input = useRef<HTMLInputElement>(null);

  async function predict(file: File | undefined) {
    if (!file) return;
    failure.value = null;
    chosen.value = { file, classes: null };
    const isPredicted = await run(async () => {
      const { classes } = await read(
        api.POST("/v1/jobs/{job_id}/predictions", {
          params: { path: { job_id: jobId } },
          headers: { "Content-Type": "application/octet-stream" },
          // The types of the API have bytes as text.
          body: file as unknown as string,
          bodySerializer: (body) => body,
        }),
      );
      // Another one may have been chosen since.
      if (chosen.value?.file === file) chosen.value = { file, classes };
    });
    if (!isPredicted && chosen.value?.file === file) chosen.value = null;
  }

  return (
    <section class="section">
      <h2>Try a picture</h2>
      {/* biome-ignore lint/a11y/noStaticElementInteractions: with a keyboard, the field has a file */}
      <div
        class={isOver.value ? "drop over" : "drop"}
        onDragOver={(event) => {
          // Else the browser opens the file in place of this page.
          event.preventDefault();
          isOver.value = true;
        }}
        onDragLeave={(event) => {
          isOver.value = event.currentTarget.contains(event.relatedTarget as Node | null);
        }}
        onDrop={(event) => {
          event.preventDefault();
          isOver.value = false;
          const files = event.dataTransfer?.files;
          if (!files?.length) return;
          // It shows the name.
          if (input.current) input.current.files = files;
          void predict(files[0]);
        }}
      >
        <Field
          label="Image file"
          error={messageOf(failure.value)}
          hint="Choose it or drop it here: JPEG, PNG, WebP and others, at most 16 MiB."
        >
          {(attributes) => (
            <input
              {...attributes}
              ref={input}
              type="file"
              accept="image/*"
              onChange={(event) => void predict(event.currentTarget.files?.[0])}
            />
          )}
        </Field>
        <div role="status">
          {chosen.value && !chosen.value.classes && (
            <p class="muted">Predicting {chosen.value.file.name} …</p>
          )}
          {chosen.value?.classes && (
            <ScrollRegion label="Likeliest classes">
              <table>
                <caption>{chosen.value.file.name}</caption>
                <thead>
                  <tr>
                    <th>Class</th>
                    <th class="number">Probability</th>
                  </tr>
                </thead>
                <tbody>
                  {chosen.value.classes.map((row) => (
                    <tr>
                      <th scope="row">{row.class_name}</th>
                      <td class="number">{percent(100 * row.probability)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </ScrollRegion>
          )}
        </div>
      </div>
    </section>
  );
}

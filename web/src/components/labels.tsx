/** What people write on a job after its submission: a star, tags, a note, and its name. */
import { useSignal } from "@preact/signals";
import { type ApiError, api, type Job, read, type Schemas } from "../api/client";
import { useAction } from "../lib/action";
import { mayChange } from "../session";
import { Field } from "./field";
import { ErrorNote } from "./notes";

export type LabelChange = Schemas["JobUpdate"];

export function changeLabels(jobId: string, body: LabelChange) {
  return read(api.PATCH("/v1/jobs/{job_id}", { params: { path: { job_id: jobId } }, body }));
}

export function tagsOf(text: string): string[] {
  return text.split(/[\s,]+/).filter(Boolean);
}

export function Labels({ job }: { job: Job }) {
  const isEdited = useSignal(false);
  const { failure, run } = useAction();

  const change = (body: LabelChange) => run(() => changeLabels(job.id, body));

  return (
    <section class="labels" aria-label="Labels">
      <ErrorNote error={failure.value} />
      {!isEdited.value && job.note && <p class="note-text">{job.note}</p>}
      {mayChange(job.user) && (
        <div class="row">
          <button
            type="button"
            class="quiet"
            aria-pressed={job.starred}
            onClick={() => change({ starred: !job.starred })}
          >
            {job.starred ? "★ Starred" : "☆ Star"}
          </button>
          <button
            type="button"
            class="quiet"
            aria-expanded={isEdited.value}
            onClick={() => {
              isEdited.value = !isEdited.value;
            }}
          >
            Edit name, tags and note
          </button>
          <button
            type="button"
            class="quiet"
            aria-pressed={job.archived}
            onClick={() => change({ archived: !job.archived })}
          >
            {job.archived ? "Take out of the archive" : "Archive"}
          </button>
        </div>
      )}
      {isEdited.value && (
        <form
          class="form"
          onSubmit={async (event) => {
            event.preventDefault();
            const form = new FormData(event.currentTarget);
            const body = {
              name: String(form.get("name")),
              tags: tagsOf(String(form.get("tags"))),
              note: String(form.get("note")),
            };
            if (await change(body)) isEdited.value = false;
          }}
        >
          <Field label="Name" error={errorAt(failure.value, "/name")}>
            {(attributes) => <input name="name" defaultValue={job.name} required {...attributes} />}
          </Field>
          <Field label="Tags" error={errorAt(failure.value, "/tags")} hint="separated by spaces">
            {(attributes) => (
              <input name="tags" defaultValue={job.spec.tags.join(" ")} {...attributes} />
            )}
          </Field>
          <Field label="Note" error={errorAt(failure.value, "/note")}>
            {(attributes) => (
              <textarea name="note" rows={3} defaultValue={job.note} {...attributes} />
            )}
          </Field>
          <button type="submit" class="primary">
            Save
          </button>
        </form>
      )}
    </section>
  );
}

function errorAt(error: ApiError | null, pointer: string): string | undefined {
  return error?.errors.find((found) => found.pointer.startsWith(pointer))?.message;
}

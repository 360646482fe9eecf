/** A labelled control with its error. */
import type { ComponentChildren, JSX } from "preact";
import { useId } from "preact/hooks";

interface Properties {
  label: string;
  error?: string | undefined;
  children: (attributes: {
    id: string;
    "aria-invalid": boolean;
    "aria-describedby": string | undefined;
  }) => JSX.Element;
  hint?: ComponentChildren;
}

export function Field({ label, error, children, hint }: Properties) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children({
        id,
        "aria-invalid": error !== undefined,
        "aria-describedby": error || hint ? `${id}-note` : undefined,
      })}
      {error ? (
        <span class="bad" id={`${id}-note`}>
          {error}
        </span>
      ) : (
        hint && (
          <span class="muted" id={`${id}-note`}>
            {hint}
          </span>
        )
      )}
    </div>
  );
}

/** A region that scrolls where it is wider or longer than its place. */
import type { ComponentChildren } from "preact";

interface Properties {
  label: string;
  /** At most 280 pixels high, with low rows. */
  isCompact?: boolean;
  children: ComponentChildren;
}

export function ScrollRegion({ label, isCompact, children }: Properties) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: keys scroll only what has the focus
    <section class={isCompact ? "scroll values" : "scroll"} tabIndex={0} aria-label={label}>
      {children}
    </section>
  );
}

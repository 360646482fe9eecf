/** A secret that the service has just created and shows once. */
export function NewSecret({ title, secret }: { title: string; secret: string | null }) {
  if (!secret) return null;
  return (
    <div class="note" role="status">
      <p>
        {title}: <code>{secret}</code>
      </p>
      <p class="muted">Copy it now: it is not shown again.</p>
    </div>
  );
}

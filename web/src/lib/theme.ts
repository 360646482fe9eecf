/** Light or dark: the system's choice until the user makes one. */
import { computed, effect, signal } from "@preact/signals";

export type Theme = "light" | "dark";

const system = matchMedia("(prefers-color-scheme: dark)");
const systemTheme = signal<Theme>(system.matches ? "dark" : "light");
system.addEventListener("change", () => {
  systemTheme.value = system.matches ? "dark" : "light";
});
const chosen = signal(localStorage.getItem("theme") as Theme | null);

export const theme = computed(() => chosen.value ?? systemTheme.value);

export function toggleTheme(): void {
  chosen.value = theme.value === "dark" ? "light" : "dark";
  localStorage.setItem("theme", chosen.value);
}

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

/** The colour of a CSS variable in the current theme, as a canvas needs it. */
export function colorOf(variable: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

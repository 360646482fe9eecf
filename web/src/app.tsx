/** The frame of all pages, and which page an address shows. */
import type { ComponentChild } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { EmptyNote, ErrorNote } from "./components/notes";
import { exported } from "./lib/exported";
import { time } from "./lib/format";
import { path } from "./lib/route";
import { theme, toggleTheme } from "./lib/theme";
import { useTitle } from "./lib/title";
import { ClusterPage } from "./pages/cluster";
import { ComparePage } from "./pages/compare";
import { JobPage } from "./pages/job";
import { JobsPage } from "./pages/jobs";
import { ModelPage } from "./pages/model";
import { ModelsPage } from "./pages/models";
import { PeoplePage } from "./pages/people";
import { SearchPage } from "./pages/search";
import { SearchesPage } from "./pages/searches";
import { SettingsPage } from "./pages/settings";
import { SharedPage } from "./pages/shared";
import { SignInPage } from "./pages/sign-in";
import { StudiesPage } from "./pages/studies";
import { StudyPage } from "./pages/study";
import { SubmitPage } from "./pages/submit";
import {
  addressOf,
  isAdmin,
  loadSession,
  type Session,
  session,
  sessionError,
  signOut,
} from "./session";

const NAVIGATION = [
  ["/", "Jobs"],
  ["/compare", "Compare"],
  ["/searches", "Searches"],
  ["/studies", "Studies"],
  ["/models", "Models"],
  ["/cluster", "Cluster"],
  ["/people", "People"],
  ["/settings", "Settings"],
] as const;
// Of admins only.
const ADMINISTRATION: ReadonlySet<string> = new Set(["/people"]);

const ROUTES: [RegExp, (id: string) => ComponentChild][] = [
  [/^\/$/, () => <JobsPage />],
  [/^\/jobs\/([^/]+)$/, (id) => <JobPage key={id} id={id} />],
  [/^\/compare$/, () => <ComparePage />],
  [/^\/searches$/, () => <SearchesPage />],
  [/^\/searches\/([^/]+)$/, (id) => <SearchPage key={id} id={id} />],
  [/^\/studies$/, () => <StudiesPage />],
  [/^\/studies\/([^/]+)$/, (id) => <StudyPage key={id} id={id} />],
  [/^\/models$/, () => <ModelsPage />],
  [/^\/models\/(.+)$/, (name) => <ModelPage key={name} name={name} />],
  [/^\/cluster$/, () => <ClusterPage />],
  [/^\/people$/, () => <PeoplePage />],
  [/^\/settings$/, () => <SettingsPage />],
  [/^\/submit$/, () => <SubmitPage />],
];

export function App() {
  useFocusOnNavigation();
  if (session.value !== undefined && path.value === "/shared") return <SharedPage />;
  if (session.value === undefined) return sessionError.value && <Unavailable />;
  if (session.value === null) return <SignInPage />;
  const { shared } = session.value;
  return (
    <>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <header class="bar">
        <a class="brand" href={shared ? addressOf(shared) : "/"}>
          resnetd
        </a>
        <nav aria-label="Pages">
          {pagesFor(shared).map(([target, title]) => (
            <a href={target} aria-current={isCurrent(target) ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <div class="end">
          <button type="button" class="quiet" onClick={toggleTheme}>
            {theme.value === "dark" ? "Light" : "Dark"}
          </button>
          <span class="muted wide">
            {shared && "by "}
            {session.value.user}
            {shared && !exported && `, until ${time(session.value.expires_at)}`}
          </span>
          {!exported && (
            <button type="button" class="quiet" onClick={signOut}>
              {shared ? "Close" : "Sign out"}
            </button>
          )}
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        <Page />
      </main>
    </>
  );
}

/** Of a link, what it shows; of people, what their role permits. */
function pagesFor(shared: Session["shared"]): (readonly [string, string])[] {
  if (shared) return [[addressOf(shared), "Shared"]];
  return NAVIGATION.filter(([target]) => isAdmin.value || !ADMINISTRATION.has(target));
}

function Unavailable() {
  useTitle("Not available");
  return (
    <main class="sign-in">
      <h1>resnetd does not answer</h1>
      <ErrorNote error={sessionError.value} />
      <button type="button" class="primary" onClick={loadSession}>
        Try again
      </button>
    </main>
  );
}

/** A new page is read from its beginning by keyboards and screen readers. */
function useFocusOnNavigation(): void {
  const shown = useRef(path.value);
  useEffect(() => {
    if (shown.current !== path.value) document.getElementById("main")?.focus();
    shown.current = path.value;
  }, [path.value]);
}

function isCurrent(target: string): boolean {
  if (target === "/") return path.value === "/" || path.value.startsWith("/jobs/");
  return path.value.startsWith(target);
}

function Page() {
  for (const [pattern, page] of ROUTES) {
    const match = pattern.exec(path.value);
    if (match) return <>{page(decodeURIComponent(match[1] ?? ""))}</>;
  }
  return <Missing />;
}

function Missing() {
  useTitle("Not found");
  return (
    <>
      <h1>Not found</h1>
      <EmptyNote title={`There is no page ${path.value}.`}>
        <a href="/">Go to the jobs</a>
      </EmptyNote>
    </>
  );
}

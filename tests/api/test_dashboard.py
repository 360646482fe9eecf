"""The dashboard's files: which addresses serve them, and with which headers."""

import gzip
import re
from pathlib import Path

import pytest

from api import dashboard
from tests.support.api import Api

INDEX = "<!doctype html><title>built</title>"


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dashboard, "STATIC", tmp_path)
    (tmp_path / "index.html").write_text(INDEX)
    return tmp_path


@pytest.mark.parametrize(
    "path",
    ["/", "/jobs/0665a1c66j5pnr4p", "/compare?job=a&job=b", "/searches", "/cluster", "/submit"],
)
@pytest.mark.usefixtures("static")
def test_an_address_of_a_page_serves_the_dashboard_without_a_token(api: Api, path: str) -> None:
    answer = api.call("GET", path, token=None)
    assert (answer.status_code, answer.text) == (200, INDEX)
    assert answer.headers["Cache-Control"] == "no-cache"


@pytest.mark.usefixtures("static")
def test_no_other_address_serves_it(api: Api) -> None:
    assert api.get("/v1/nothing").status_code == 404
    assert api.get("/nothing").status_code == 404


@pytest.mark.usefixtures("static")
def test_the_page_runs_only_own_scripts_and_in_no_frame(api: Api) -> None:
    headers = api.call("GET", "/", token=None).headers
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.fixture
def built() -> Path:
    if not dashboard.is_built():
        pytest.skip("the dashboard is not built: run `make dashboard`")
    return dashboard.STATIC


def test_the_first_load_has_at_most_100_kilobytes(built: Path) -> None:
    index = built / "index.html"
    loaded = re.findall(r'(?:src|href)="/(assets/[^"]+)"', index.read_text())
    assert {Path(name).suffix for name in loaded} >= {".js", ".css"}
    files = [index, *(built / name for name in loaded)]
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) <= 100_000


def test_a_browser_keeps_files_whose_names_contain_their_hash(api: Api, built: Path) -> None:
    script = next((built / "assets").glob("*.js"))
    answer = api.call("GET", f"/assets/{script.name}", token=None)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Encoding"] == "gzip"
    assert api.call("GET", "/assets/..%2findex.html", token=None).status_code == 404


def test_without_a_build_the_page_says_how_to_get_one(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "STATIC", tmp_path)
    answer = api.call("GET", "/", token=None)
    assert answer.status_code == 200
    assert "make dashboard" in answer.text
    assert api.get("/v1/jobs").status_code == 200

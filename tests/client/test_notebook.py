"""What a notebook shows: records as HTML, frames, curves, and the progress of jobs."""

import json
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import resnetd
from resnetd.cli.watch import watch
from resnetd.notebook import NotebookScreen
from resnetd.records import parse
from service.states import Reason
from tests.client import faults
from tests.client.service import Service, Training

mpl.use("agg")


class _Page(HTMLParser):
    """Text and tags of a fragment; it fails where the tags do not match."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: dict[str, dict[str, str | None]] = {}
        self._open: list[str] = []
        self.feed(fragment)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = dict(attrs)
        self._open += [] if tag in {"br", "polyline"} else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data + "\n"


def _page(record: Any) -> _Page:
    return _Page(record._repr_html_())


def _train(service: Service, **fields: Any) -> Training:
    training = service.run(**fields)
    training.progress(5, train_error=70.0, test_error=60.0)
    training.progress(10, train_error=40.0, test_error=30.0)
    return training


def test_a_running_job_shows_its_state_progress_and_curve(
    service: Service, client: resnetd.Client
) -> None:
    job = client.jobs.get(_train(service).job_id)
    page = _page(job)
    assert "iteration 10 of 20, 1,890 images/s" in page.text
    assert {"running", job.id} <= set(page.text.split())
    assert page.tags["progress"] == {"max": "20", "value": "10"}
    assert page.tags["polyline"]["points"] == "0.0,0.0 240.0,48.0"
    assert "test error, now 30.00 %" in page.text


def test_a_page_is_light_or_dark_by_css_alone(service: Service, client: resnetd.Client) -> None:
    fragment = client.jobs.get(service.submit())._repr_html_()
    assert "prefers-color-scheme: dark" in fragment
    assert '[data-jp-theme-light="false"]' in fragment
    assert "<script" not in fragment


def test_a_job_shows_why_it_waits_and_why_it_ended(
    service: Service, client: resnetd.Client
) -> None:
    waiting = client.jobs.get(service.submit())
    assert waiting.waiting is not None
    assert waiting.waiting.message in _page(waiting).text
    assert "diverged" in _page(client.jobs.get(service.end(Reason.DIVERGED))).text


def test_a_job_shows_itself_without_a_curve_where_the_service_has_gone(
    service: Service, client: resnetd.Client
) -> None:
    job = client.jobs.get(_train(service).job_id)
    service.transport.lasting_fault = faults.refuse_connection
    service.transport.requests.clear()
    assert "polyline" not in _page(job).tags
    assert len(service.transport.requests) == 1  # not repeated: a cell would seem to hang


def test_text_of_a_record_is_no_html(service: Service, client: resnetd.Client) -> None:
    page = _page(client.jobs.get(service.submit(name="<img src=x onerror=alert(1)>")))
    assert "img" not in page.tags
    assert "<img src=x" in page.text


def test_all_kinds_of_runs_show_themselves(service: Service, client: resnetd.Client) -> None:
    search = client.searches.get(service.search(4.5, 60.0))
    assert "#1" in _page(search).text
    assert "test/error 4.5" in _page(search).text
    study = client.studies.submit("fig1", seeds=1)
    assert study.members[0].label in _page(study).text
    network = {"depth": 8, "dataset": "digits"}
    compared = client.comparisons.submit(
        {**network, "shortcut": "A"}, {**network, "shortcut": "none"}, seeds=1
    )
    assert "no seed has both results yet" in _page(compared).text
    plan = client.jobs.plan(depth=20, shortcut="A", dataset="digits")
    assert f"{plan.parameters:,}" in _page(plan).text


def test_metrics_show_a_curve_for_each_series(service: Service, client: resnetd.Client) -> None:
    metrics = client.jobs.metrics(_train(service).job_id)
    page = _page(metrics)
    assert "test/error" in page.text
    assert "lowest 40" in page.text
    assert repr(metrics) == "Metrics({'test/error': 2, 'train/error': 2})"


def test_metrics_become_a_frame_with_a_row_for_each_point(
    service: Service, client: resnetd.Client
) -> None:
    training = _train(service)
    training.progress(15, test_error=None)
    frame = client.jobs.metrics(training.job_id).to_pandas()
    assert list(frame.columns) == ["series", "iteration", "value", "seconds", "time"]
    assert isinstance(frame.time.dtype, pd.DatetimeTZDtype)
    wide = frame.pivot_table(index="iteration", columns="series", values="value")
    assert wide["test/error"].to_dict() == {5: 60.0, 10: 30.0}
    assert client.jobs.metrics(service.submit()).to_pandas().empty


def test_metrics_become_a_frame_of_polars(
    service: Service, client: resnetd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", SimpleNamespace(DataFrame=dict))
    frame = client.jobs.metrics(_train(service).job_id, series="test/error").to_polars()
    assert frame["value"] == [60.0, 30.0]


def test_a_plot_has_train_dashed_and_test_bold_in_one_color_for_each_job(
    service: Service, client: resnetd.Client
) -> None:
    ids = [_train(service, shortcut=shortcut).job_id for shortcut in ("A", "none")]
    axes = client.jobs.plot(ids)
    lines = axes.get_lines()
    assert [line.get_linestyle() for line in lines] == ["--", "-"] * 2
    assert [line.get_color() for line in lines] == ["#0072B2"] * 2 + ["#D55E00"] * 2
    assert np.asarray(lines[1].get_xydata()).tolist() == [[5.0, 60.0], [10.0, 30.0]]
    assert client.jobs.plot(service.submit(), axes=axes) is axes


def test_a_notebook_shows_the_progress_of_followed_jobs(
    service: Service, client: resnetd.Client
) -> None:
    training = _train(service)
    shown: list[str] = []
    screen = NotebookScreen(shown.append, clock=iter(range(100)).__next__)
    job = client.jobs.get(training.job_id)
    screen.start(job)
    progress = {"iteration": 15, "iterations": 20, "percent": 75.0, "metrics": {"test/error": 9.0}}
    screen.update(job, parse(resnetd.Event, {"kind": "progress", "data": progress}))
    assert "iteration 15 of 20" in _Page(shown[-1]).text
    assert "test error, now 9.00 %" in _Page(shown[-1]).text
    training.progress(20, test_error=2.5)
    training.finish()
    [ended] = watch(client.jobs, [job], screen)
    assert ended.state == "succeeded"
    assert "test error 2.50 %" in _Page(shown[-1]).text


def test_a_record_that_was_sent_on_can_be_shown() -> None:
    document = {
        "id": "0f3k000000000001",
        "name": "n",
        "network": "resnet-20-A",
        "state": "running",
        "spec": {},
        "attempts": 1,
        "created_at": "2026-11-21T12:00:00Z",
    }
    assert "running" in _page(parse(resnetd.Job, json.loads(json.dumps(document)))).text


def test_following_in_a_terminal_prints_lines(
    service: Service, client: resnetd.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    [ended] = client.jobs.follow(service.end(Reason.COMPLETED))
    assert ended.state == "succeeded"
    assert "succeeded: test error 2.50 %" in capsys.readouterr().out

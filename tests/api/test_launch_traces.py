"""A launch is a trace: its spans, their times, and where its id comes from."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.app import make_tracer
from api.launch_traces import LaunchTracer, make_trace_id
from service.errors import InvalidInput
from service.execution import launches
from service.execution.launches import Launch
from service.states import Role
from tests.support.api import Api, serving_new
from tests.support.collector import Collector, collecting
from tests.support.core import Core, Taken, job_id_of

PHASES = [
    "wait in the queue",
    "submit a runner",
    "give the attempt to its runner",
    "start processes and load images",
    "first step",
]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


def _begin(core: Core) -> Taken:
    """A job of whose launch each phase takes a second."""
    core.record_cluster(cpus=4)
    core.submit()
    core.clock.advance(1.0)
    claimed = core.claim()
    core.clock.advance(1.0)
    core.start_runners()
    core.clock.advance(1.0)
    return core.take(claimed)


def _times(core: Core) -> dict[str, str]:
    """What the training reports a second after each."""
    core.clock.advance(1.0)
    data_ready_at = core.clock.now.isoformat()
    core.clock.advance(1.0)
    return {"data_ready_at": data_ready_at, "first_step_at": core.clock.now.isoformat()}


def test_a_launch_has_a_span_for_each_phase(core: Core, collector: Collector) -> None:
    taken = _begin(core)
    applied = core.apply(taken.attempt_id, 1, launch_times=_times(core))
    assert applied.launch is not None
    tracer = LaunchTracer()
    tracer.send(applied.launch)
    tracer.close()
    _check(collector, applied.launch)
    assert core.apply(taken.attempt_id, 1, launch_times=_times(core)).launch is None
    assert core.apply(taken.attempt_id, 2).launch is None


def _check(collector: Collector, launch: Launch) -> None:
    assert set(collector.paths) == {"/v1/traces"}
    *phases, root = collector.spans
    assert [span.name for span in phases] == PHASES
    assert root.name == "launch"
    trace_id = make_trace_id(launch.attempt_id).to_bytes(16)
    assert {span.trace_id for span in collector.spans} == {trace_id}
    assert {span.parent_span_id for span in phases} == {root.span_id}
    ends = [span.end_time_unix_nano for span in phases]
    begins = [span.start_time_unix_nano for span in phases]
    assert begins[1:] == ends[:-1], "without gaps"
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (begins[0], ends[-1])
    assert ends[-1] - begins[0] == 5_000_000_000
    attributes = {item.key: item.value.string_value for item in root.attributes}
    assert attributes["resnetd.job_id"] == launch.job_id


def test_a_clock_that_is_behind_makes_no_span_end_before_it_begins(core: Core) -> None:
    taken = _begin(core)
    times = _times(core)
    core.clock.advance(1.0)
    early = core.job(job_id_of(taken)).created_at.isoformat()
    applied = core.apply(taken.attempt_id, 1, launch_times=times | {"data_ready_at": early})
    assert applied.launch is not None
    for phase in applied.launch.phases:
        assert phase.begins_at <= phase.ends_at
    assert applied.launch.phases[-1].name == "first step"


def test_a_launch_on_a_waiting_runner_submits_none(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.ask(core.start_warm_runner().id)
    core.submit()
    taken = core.start_next()
    core.report(taken.attempt_id, 1, launch_times=_times(core))
    launch = launches.describe_launch(core.job(job_id_of(taken)), core.attempt(taken.attempt_id))
    assert [phase.name for phase in launch.phases] == [PHASES[0], *PHASES[3:]]


def test_the_api_sends_a_trace_when_the_first_step_is_reported(
    collector: Collector, tmp_path: Path
) -> None:
    with serving_new(f"sqlite:///{tmp_path / 'api.db'}", tmp_path) as api:
        _report_first_step(api)
    # Its end sends what is left.
    assert collector.names() == [*PHASES, "launch"]


def _report_first_step(api: Api) -> None:
    api.core.add_person("ann", Role.MEMBER)
    taken = _begin(api.core)
    answer = api.report(taken, 1, launch_times=_times(api.core))
    assert answer.status_code == 200


def test_nothing_is_sent_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.setitem(sys.modules, "api.launch_traces", None)
    assert make_tracer() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with pytest.raises(InvalidInput, match="install the extra otel"):
        make_tracer()

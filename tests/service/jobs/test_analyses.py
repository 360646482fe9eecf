"""Analyses: jobs with the network of another job, apart from trainings."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import Conflict, InvalidInput, NotFound
from service.execution import attempts
from service.jobs import analyses, checkpoints, lineage, records, retention
from service.jobs.records import JobFilter
from service.scheduling.estimates import Estimator, TimingProfile
from service.specs.analysis_request import AnalysisRequest
from service.specs.analysis_spec import LayerResponsesSpec
from service.specs.protocol import Progress
from service.states import JobState, Reason
from tests.support.analyses import (
    EVALUATION,
    LAYER_RESPONSES,
    RESPONSES,
    finish_analysis,
    finish_training,
    submit_analysis,
)
from tests.support.core import Core, spec, workers
from tests.support.studies import members_of, submit_study


def test_an_analysis_has_the_network_of_its_job_and_one_worker(core: Core) -> None:
    source = finish_training(
        core, depth=14, shortcut="B", seed=3, resources=workers(2, cpus_per_worker=2)
    )
    job = core.job(submit_analysis(core, source, checkpoint="best", tags=["retest"]))
    assert (job.kind, job.state, job.name) == (
        "evaluation",
        JobState.QUEUED,
        "evaluation of resnet-14-B on digits",
    )
    assert (job.worker_counts, job.cpus_per_worker, job.iterations) == ([1], 2, 1)
    assert (job.source_job_id, job.source_iteration) == (source, 100), "the best"
    written = records.spec_of(job)
    assert (written.depth, written.shortcut, written.seed, written.tags) == (
        14,
        "B",
        3,
        ("retest",),
    )
    assert written.recipe == records.spec_of(core.job(source)).recipe
    assert core.job(submit_analysis(core, source, checkpoint="newest")).source_iteration == 200


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"job": "0" * 16}, "/job"),
        ({"checkpoint": "oldest"}, "/checkpoint"),
        ({"dataset": "cifar100"}, "/dataset"),
        ({"dataset": "mnist"}, "/dataset"),
        ({"resources": workers(2)}, "/analysis"),
        ({"analysis": EVALUATION | {"split": "validation"}}, "/analysis"),
        ({"analysis": EVALUATION | {"test_time_augmentation": "ten_crop"}}, "/analysis"),
    ],
)
def test_an_analysis_that_cannot_run_is_refused_with_the_field(
    core: Core, fields: dict[str, Any], pointer: str
) -> None:
    source = finish_training(core)
    with pytest.raises(InvalidInput) as caught:
        submit_analysis(core, source, **fields)
    assert [error.pointer for error in caught.value.field_errors] == [pointer]


def test_a_job_without_a_checkpoint_cannot_be_analysed(core: Core) -> None:
    core.record_cluster(cpus=4)
    with pytest.raises(InvalidInput) as caught:
        submit_analysis(core, core.submit())
    [error] = caught.value.field_errors
    assert error.pointer == "/checkpoint"
    assert "has no checkpoint yet" in error.message


def test_the_attempt_of_an_analysis_gets_the_checkpoint_and_starts_anew_after_a_failure(
    core: Core,
) -> None:
    job_id = submit_analysis(core, finish_training(core))
    first = core.start_next()
    core.report(
        first.attempt_id, 1, progress=Progress(iteration=5, iterations=10, images_per_second=None)
    )
    core.end(first, Reason.WORKER_DIED)
    core.release(first)
    again = core.retry()
    with core.database.reading() as session:
        config = attempts.build_config(session, again.attempt_id)
    assert config.spec.analysis is not None
    assert config.resume is not None
    assert config.resume.iteration == 100
    assert core.attempt(again.attempt_id).first_iteration == 0
    assert core.job(job_id).state is JobState.RUNNING


def test_a_running_analysis_is_cancelled(core: Core) -> None:
    job_id = submit_analysis(core, finish_training(core))
    claimed = core.start_next()
    core.report(claimed.attempt_id, 1)
    core.cancel(job_id)
    assert core.report(claimed.attempt_id, 2).stop_reason == "cancel"
    assert core.finish(claimed.attempt_id, Reason.CANCELLED) is JobState.CANCELLED


def test_the_result_is_kept_beside_the_job_and_deleted_with_it(core: Core) -> None:
    source = finish_training(core)
    waiting = submit_analysis(core, source, analysis=LAYER_RESPONSES)
    with core.database.reading() as session, pytest.raises(NotFound, match="it is queued"):
        analyses.read_result(session, core.job(waiting))
    assert finish_analysis(core) == waiting
    queued = submit_analysis(core, source)
    with core.database.reading() as session:
        assert analyses.read_result(session, core.job(waiting)) == RESPONSES
        listed = analyses.list_analyses(session, source)
        assert [(found.job.id, found.numbers) for found in listed] == [
            (queued, None),
            (waiting, {"layers": 3, "mean_std": 2.0}),
        ]
        with pytest.raises(NotFound, match="is a training"):
            analyses.read_result(session, core.job(source))
    assert core.job(waiting).state is JobState.SUCCEEDED
    with core.database.transaction() as session:
        retention.delete_job(session, waiting)
    with core.database.reading() as session:
        assert [found.job.id for found in analyses.list_analyses(session, source)] == [queued]


def test_the_checkpoint_is_protected_until_the_analysis_has_ended(core: Core) -> None:
    source = finish_training(core)
    submit_analysis(core, source)
    with core.database.transaction() as session, pytest.raises(Conflict, match="starts from"):
        retention.delete_job(session, source)
    finish_analysis(core)
    with core.database.transaction() as session:
        retention.delete_job(session, source)


def test_analyses_are_no_trainings(core: Core) -> None:
    core.record_cluster(cpus=64)
    source = finish_training(core)
    analysis = submit_analysis(core, source)
    finish_analysis(core)
    assert core.job(analysis).training_key != core.job(source).training_key
    assert core.job(analysis).result is None
    with core.database.reading() as session:
        assert [found.id for found in lineage.read_lineage(session, source)] == [source]
        page = records.list_page(session, JobFilter(kinds=["training"]), limit=10)
        assert [job.id for job in page.rows] == [source]
        where = JobFilter(where=["kind:evaluation"])
        assert [job.id for job in records.list_page(session, where, limit=10).rows] == [analysis]
    study_id = submit_study(core)
    assert analysis not in members_of(core, study_id).values()


def test_the_duration_of_an_analysis_is_estimated_from_analyses_of_its_kind(core: Core) -> None:
    source = finish_training(core)
    submit_analysis(core, source)
    finish_analysis(core)
    with core.database.reading() as session:
        estimator = Estimator(session)
        request = AnalysisRequest.model_validate({"job": source, "analysis": EVALUATION})
        same = TimingProfile.from_spec(analyses.make_spec(session, request), num_workers=1)
        measured = estimator.estimate_iteration(same)
        assert measured is not None
        assert measured.p50 == 30.0
        training = TimingProfile.from_spec(spec(depth=20), num_workers=1)
        assert estimator.estimate_iteration(training) is None, "no training was measured"


def _submit_comparison(core: Core, source: str, other: str) -> str:
    others = [{"job": other, "checkpoint": "all"}, {"job": source, "checkpoint": "newest"}]
    return submit_analysis(core, source, analysis=LAYER_RESPONSES | {"others": others})


@pytest.fixture
def _with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LayerResponsesSpec, "max_others", 5)


@pytest.mark.usefixtures("_with_others")
def test_the_attempt_of_an_analysis_gets_further_checkpoints_of_any_job(core: Core) -> None:
    source, other = finish_training(core), finish_training(core, depth=14)
    job_id = _submit_comparison(core, source, other)
    claimed = core.start_next()
    with core.database.reading() as session:
        config = attempts.build_config(session, claimed.attempt_id)
        assert [(found.iteration, found.mode) for found in config.others] == [
            (100, None),
            (200, None),
            (200, None),
        ]
        pinned = [other["checkpoint"] for other in core.job(job_id).spec["analysis"]["others"]]
        assert pinned == [found.checkpoint_id for found in config.others]
        found = attempts.find_other_checkpoint(session, claimed.attempt_id, 2)
        assert (found.job_id, found.iteration) == (source, 200)
        with pytest.raises(NotFound, match="no other checkpoint 3"):
            attempts.find_other_checkpoint(session, claimed.attempt_id, 3)


@pytest.mark.usefixtures("_with_others")
def test_further_checkpoints_are_protected_until_the_analysis_has_ended(core: Core) -> None:
    source, other = finish_training(core), finish_training(core)
    _submit_comparison(core, source, other)
    with core.database.transaction() as session, pytest.raises(Conflict, match="starts from"):
        retention.delete_job(session, other)
    finish_analysis(core)
    with core.database.transaction() as session:
        retention.delete_job(session, other)


@pytest.mark.usefixtures("_with_others")
def test_an_unknown_further_checkpoint_is_refused_with_the_field(core: Core) -> None:
    source = finish_training(core)
    for others, pointer in (
        ([{"job": "0" * 16}], "/analysis/others/0"),
        ([{"job": source}, {"job": source, "checkpoint": "?"}], "/analysis/others/1"),
    ):
        with pytest.raises(InvalidInput) as caught:
            submit_analysis(core, source, analysis=LAYER_RESPONSES | {"others": others})
        assert [error.pointer for error in caught.value.field_errors] == [pointer]


def test_a_kind_that_uses_one_checkpoint_refuses_others(core: Core) -> None:
    analysis = EVALUATION | {"others": [{"job": "0" * 16}]}
    with pytest.raises(ValidationError, match="uses none, received 1"):
        submit_analysis(core, "0" * 16, analysis=analysis)


def _list_others(core: Core, job_id: str) -> list[tuple[str, int]]:
    """Job and iteration of the further checkpoints."""
    found = []
    with core.database.reading() as session:
        for other in core.job(job_id).spec["analysis"]["others"]:
            checkpoint = checkpoints.find_checkpoint(session, other["job"], other["checkpoint"])
            found.append((checkpoint.job_id, checkpoint.iteration))
    return found


@pytest.mark.parametrize("kind", ["trajectory", "layer-statistics"])
def test_an_analysis_over_time_has_all_checkpoints_of_its_job_alone(core: Core, kind: str) -> None:
    source, other = finish_training(core), finish_training(core)
    analysis = submit_analysis(core, source, analysis={"kind": kind})
    assert _list_others(core, analysis) == [(source, 100), (source, 200)]
    others = [{"job": source, "checkpoint": "best"}]
    analysis = submit_analysis(core, source, analysis={"kind": kind, "others": others})
    assert _list_others(core, analysis) == [(source, 100)]
    with pytest.raises(InvalidInput) as caught:
        submit_analysis(core, source, analysis={"kind": kind, "others": [{"job": other}]})
    [error] = caught.value.field_errors
    assert (error.pointer, error.message) == (
        "/analysis/others/0/job",
        f"must be {source}, the job to analyse; received {other}",
    )


def test_predictions_are_of_images_of_any_classes(core: Core) -> None:
    source = finish_training(core)
    submit_analysis(core, source, analysis={"kind": "predictions"}, dataset="cifar100")


def test_a_deepened_job_is_compared_with_the_checkpoint_that_it_started_from(core: Core) -> None:
    source = finish_training(core, depth=8)
    start = {"job": source, "checkpoint": "best", "mode": "deepen"}
    deepened = finish_training(core, depth=20, start_from=start)
    analysis = submit_analysis(core, deepened, analysis={"kind": "deepened-twin"})
    assert _list_others(core, analysis) == [(source, 100)]
    analysis = submit_analysis(core, source, analysis={"kind": "deepened-twin", "depth": 20})
    assert _list_others(core, analysis) == []


@pytest.mark.parametrize(
    ("analysis", "message"),
    [
        ({"kind": "path-gradients"}, "needs a network with shortcuts; plain-20 has a single path"),
        ({"kind": "interpolation"}, "needs the checkpoint at the other end of the line in others"),
        ({"kind": "interpolation", "first": 1, "last": 0}, "first must be less than last"),
        ({"kind": "deepened-twin"}, "needs depth, unless the job was deepened"),
        ({"kind": "deepened-twin", "depth": 21}, "depth must be 6n+2, received 21"),
        ({"kind": "deepened-twin", "depth": 14}, "plain-14 is not deeper than plain-20"),
    ],
)
def test_an_analysis_that_has_no_meaning_for_the_network_is_refused(
    core: Core, analysis: dict[str, Any], message: str
) -> None:
    source = finish_training(core, depth=20, shortcut="none")
    with pytest.raises((InvalidInput, ValidationError)) as caught:
        submit_analysis(core, source, analysis=analysis)
    errors = caught.value.field_errors if isinstance(caught.value, InvalidInput) else ()
    assert message in " ".join([str(caught.value), *(error.message for error in errors)])

"""Analyses of a study's members: when they are submitted, reused and reported."""

import csv
import io
from typing import Any

import pytest

from service.errors import InvalidInput
from service.specs.analysis_result import AnalysisResult, ResultTable
from service.states import JobState, Reason
from service.storage.tables import StudyRow
from service.studies import figure, formats
from tests.support.analyses import finish_analysis, submit_analysis
from tests.support.core import Core
from tests.support.studies import (
    definition,
    finish_next,
    members_of,
    read_report,
    study_spec,
    submit_due_analyses,
    submit_study,
)

RESPONSES = {"responses": {"kind": "layer-responses"}}
PANELS = [{"title": "responses", "members": ["plain-8", "resnet-8"], "analysis": "responses"}]
VIEWS = {"views": {"kind": "evaluation", "test_time_augmentation": "hflip"}}


def _with_responses() -> dict[str, Any]:
    return definition(analyses=RESPONSES, panels=PANELS)


def _with_views() -> dict[str, Any]:
    return definition(analyses=VIEWS, evaluated_by="views")


def _responses(*stds: float) -> AnalysisResult:
    rows = [[number, f"conv{number}", std, 0.0] for number, std in enumerate(stds, start=1)]
    columns = ["layer", "name", "std", "mean"]
    table = ResultTable(name="layers", columns=columns, rows=rows)
    return AnalysisResult(numbers={"max_std": max(stds)}, tables=[table])


def _finish_member(core: Core, error: float) -> str:
    job_id = finish_next(core, error)
    core.clock.advance(1.0)  # the analysis comes after the other members in the queue
    submit_due_analyses(core, job_id)
    return job_id


@pytest.fixture
def core(core: Core) -> Core:
    core.record_cluster(cpus=8)
    return core


def test_an_analysis_is_submitted_once_the_training_has_succeeded(core: Core) -> None:
    study_id = submit_study(core, written=_with_responses(), seeds=1)
    report = read_report(core, study_id)
    assert (report.finished, report.total) == (0, 4)
    job_id = _finish_member(core, 9.0)
    submit_due_analyses(core, job_id)
    report = read_report(core, study_id)
    assert (report.finished, report.total) == (1, 4)
    [[(seed, analysis_id, state)], []] = [
        analysis.jobs for member in report.members for analysis in member.analyses
    ]
    assert (seed, state) == (0, JobState.QUEUED)
    job = core.job(analysis_id or "")
    assert (job.kind, job.source_job_id, job.source_iteration) == ("layer-responses", job_id, 20)
    assert job.name == "tiny plain-8 seed 0: responses"
    assert report.members[0].gap == "responses of 1 seed: 1 queued"


def test_analyses_of_trainings_that_had_finished_are_submitted_with_the_study(core: Core) -> None:
    submit_study(core, seeds=1)
    finish_next(core, 9.0)
    study_id = submit_study(core, written=_with_responses(), seeds=1)
    [plain, residual] = read_report(core, study_id).members
    assert len(plain.analyses[0].jobs) == 1
    assert residual.analyses[0].jobs == []


def test_an_analysis_that_a_user_has_made_is_reused(core: Core) -> None:
    submit_study(core, seeds=1)
    job_id = finish_next(core, 9.0)
    made = submit_analysis(core, job_id, analysis=RESPONSES["responses"], checkpoint="newest")
    study_id = submit_study(core, written=_with_responses(), seeds=1)
    again = submit_study(core, written=_with_responses(), seeds=2)
    for found in (study_id, again):
        [plain, _] = read_report(core, found).members
        assert [analysis_id for _, analysis_id, _ in plain.analyses[0].jobs] == [made]


def test_an_analysis_of_another_person_is_not_reused(core: Core) -> None:
    """The owner of the study may not see it."""
    submit_study(core, seeds=1)
    job_id = finish_next(core, 9.0)
    analysis = RESPONSES["responses"]
    made = submit_analysis(core, job_id, user="eve", analysis=analysis, checkpoint="newest")
    study_id = submit_study(core, written=_with_responses(), seeds=1)
    [plain, _] = read_report(core, study_id).members
    [(_, analysis_id, _)] = plain.analyses[0].jobs
    assert analysis_id != made


def test_a_failed_training_ends_its_analyses_too(core: Core) -> None:
    study_id = submit_study(core, written=_with_responses(), seeds=1)
    claimed = core.start_next()
    core.report(claimed.attempt_id, 1)
    core.finish(claimed.attempt_id, Reason.DIVERGED)
    report = read_report(core, study_id)
    assert (report.finished, report.total) == (2, 4)
    assert report.members[0].gap == "of 1 seed: 1 failed"


def test_an_analysis_that_cannot_be_submitted_is_a_gap_with_its_reason(core: Core) -> None:
    study_id = submit_study(core, written=_with_responses(), seeds=1)
    job_id = finish_next(core, 9.0)
    core.record_cluster(cpus=0)
    submit_due_analyses(core, job_id)
    report = read_report(core, study_id)
    assert (report.finished, report.total) == (2, 4)
    assert report.members[0].gap.startswith(
        "responses: the cluster can never run this job; /resources: 1 worker needs 1 CPU"
    )


def test_layer_responses_are_drawn_in_order_and_sorted_over_seeds(core: Core) -> None:
    study_id = submit_study(core, written=_with_responses(), seeds=2)
    for error in (9.0, 8.0, 9.5, 8.5):
        _finish_member(core, error)
    for stds in ((1.0, 5.0, 3.0), (0.5, 1.0, 0.25), (3.0, 7.0, 9.0), (0.5, 1.0, 0.25)):
        finish_analysis(core, _responses(*stds))
    report = read_report(core, study_id)
    assert (report.finished, report.total) == (8, 8)
    original, ranked = (panel.responses or {} for panel in report.panels)
    assert original == {"plain-8": [2.0, 6.0, 6.0], "resnet-8": [0.5, 1.0, 0.25]}
    assert ranked["plain-8"] == [7.0, 5.0, 2.0], "each seed sorted, then averaged"
    drawn = figure.draw(report, "svg")
    assert drawn == figure.draw(read_report(core, study_id), "svg")
    for text in ("layers in their order", "sorted by magnitude", "plain-8", "resnet-8"):
        assert text in drawn.decode()
    markdown = formats.to_markdown(report)
    assert "| plain-8 | responses | max std | 2 | 7.00 ± 2.83 |" in markdown
    assert r"plain-8 & responses & max std & 2 & 7.00 $\pm$ 2.83" in formats.to_latex(report)
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(report))))
    assert [(row["metric"], row["mean"]) for row in rows if row["member"] == "plain-8"] == [
        ("test/error", "9.2500"),
        ("responses/max_std", "7.0000"),
    ]


def test_an_evaluation_takes_the_place_of_the_trainings_own_errors(core: Core) -> None:
    study_id = submit_study(core, written=_with_views(), seeds=1)
    for error in (9.0, 8.0):
        _finish_member(core, error)
    [cell] = read_report(core, study_id).members[0].cells.values()
    assert cell.statistics is None, "its own error is not that of the views"
    for error in (7.0, 6.5):
        finish_analysis(core, AnalysisResult(numbers={"test_error": error}))
    report = read_report(core, study_id)
    [cell] = report.members[0].cells.values()
    assert cell.statistics is not None
    assert cell.statistics.mean == 7.0
    [difference] = report.differences
    assert difference.found is not None
    assert difference.found.mean == -0.5
    assert "Test errors are those of the analysis views." in formats.to_markdown(report)


def _with_ensemble(**fields: Any) -> dict[str, Any]:
    paper = {"both": {"test/error": 3.57}, "resnet-8": {"test/error": 8.75}}
    return definition(ensembles={"both": ["resnet-8", "plain-8"]}, paper=paper, **fields)


def test_an_ensemble_is_submitted_with_the_last_of_its_trainings_and_reported(core: Core) -> None:
    study_id = submit_study(core, written=_with_ensemble(), seeds=2, scale="paper")
    assert read_report(core, study_id).total == 6
    plain, residual = _finish_member(core, 9.0), _finish_member(core, 8.0)
    [ensemble] = read_report(core, study_id).ensembles
    [(seed, analysis_id, state)] = ensemble.jobs
    assert (seed, state) == (0, JobState.QUEUED)
    job = core.job(analysis_id or "")
    assert (job.kind, job.source_job_id) == ("ensemble", residual)
    assert [other["job"] for other in job.spec["analysis"]["others"]] == [plain]
    assert job.name == "tiny both seed 0: ensemble"
    for error in (9.5, 8.5):
        _finish_member(core, error)
    for error in (7.0, 6.0):
        finish_analysis(core, AnalysisResult(numbers={"test_error": error}))
    report = read_report(core, study_id)
    assert (report.finished, report.total) == (6, 6)
    markdown = formats.to_markdown(report)
    assert "| both | mean of 2 networks |  | 2 | 6.50 ± 0.71 | 3.57 | +2.93 |" in markdown
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(report))))
    assert [row["mean"] for row in rows if row["member"] == "both"] == ["6.5000"]


def test_trainings_that_end_at_once_submit_their_ensemble_once(core: Core) -> None:
    study_id = submit_study(core, written=_with_ensemble(), seeds=1)
    jobs = [finish_next(core, error) for error in (9.0, 8.0)]
    for job_id in (*jobs, *jobs):
        submit_due_analyses(core, job_id)
    [ensemble] = read_report(core, study_id).ensembles
    assert len(ensemble.jobs) == 1
    again = submit_study(core, written=_with_ensemble(), seeds=1)
    assert read_report(core, again).ensembles[0].jobs == ensemble.jobs, "it is reused"


def test_an_ensemble_of_which_a_training_failed_is_not_awaited(core: Core) -> None:
    study_id = submit_study(core, written=_with_ensemble(), seeds=1)
    _finish_member(core, 9.0)
    claimed = core.start_next()
    core.report(claimed.attempt_id, 1)
    core.finish(claimed.attempt_id, Reason.DIVERGED)
    report = read_report(core, study_id)
    assert (report.finished, report.total) == (3, 3)


def test_an_ensemble_is_tested_with_the_views_of_the_study_on_the_networks_of_the_scale() -> None:
    written = _with_ensemble(analyses=VIEWS, evaluated_by="views")
    assert study_spec(written=written).make_ensemble(()).test_time_augmentation == "hflip"
    written["scales"]["smoke"]["members"] = ["plain-8"]
    written["comparisons"] = []
    assert study_spec(written=written).ensembles == {}


def test_a_scale_changes_parameters_of_an_analysis() -> None:
    written = _with_views()
    written["scales"]["smoke"]["analyses"] = {"views": {"test_time_augmentation": "none"}}
    views = {
        scale: study_spec(written=written, scale=scale).make_analysis("views").model_dump()
        for scale in ("smoke", "paper")
    }
    assert views["smoke"]["test_time_augmentation"] == "none"
    assert views["paper"]["test_time_augmentation"] == "hflip"


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"analyses": {"a": {"kind": "horoscope"}}}, "/analyses/a"),
        ({"analyses": {"a": {"kind": "layer-responses", "images": 0}}}, "/analyses/a/images"),
        (
            {"analyses": {"a": {"kind": "evaluation", "test_time_augmentation": "ten_crop"}}},
            "/analyses/a",
        ),
        ({"analyses": RESPONSES, "evaluated_by": "responses"}, "/analyses/responses"),
        ({"analyses": VIEWS, "panels": [PANELS[0] | {"analysis": "views"}]}, "/analyses/views"),
        ({"evaluated_by": "views"}, "/definition"),
        ({"ensembles": {"plain-8": ["plain-8", "resnet-8"]}}, "/definition"),
        ({"ensembles": {"both": ["plain-8", "plain-9"]}}, "/definition"),
        ({"ensembles": {"both": ["plain-8", "plain-8"]}}, "/definition"),
        ({"ensembles": {"both": ["plain-8"]}}, "/definition/ensembles/both"),
        ({"metrics": []}, "/definition"),
        ({"counts": ["network/share"]}, "/definition"),
        ({"share_of": "plain-8"}, "/definition"),
        ({"panels": PANELS}, "/definition"),
    ],
)
def test_a_wrong_analysis_of_a_definition_is_refused_with_its_place(
    changes: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        study_spec(written=definition(**changes))
    assert [error.pointer for error in caught.value.field_errors] == [pointer]


def test_a_member_that_analyses_is_refused() -> None:
    start = {"job": "0" * 16, "mode": "weights"}
    member = {"depth": 8, "shortcut": "A", "start_from": start, "analysis": VIEWS["views"]}
    written = definition(members={"a": member}, comparisons=[])
    with pytest.raises(InvalidInput) as caught:
        study_spec(written=written)
    assert [error.pointer for error in caught.value.field_errors] == ["/members/a/analysis"]


def test_a_study_with_analyses_is_deleted_without_its_jobs(core: Core) -> None:
    study_id = submit_study(core, written=_with_responses(), seeds=1)
    _finish_member(core, 9.0)
    analysis_id = read_report(core, study_id).members[0].analyses[0].jobs[0][1]
    with core.database.transaction() as session:
        session.delete(session.get(StudyRow, study_id))
    assert core.job(analysis_id or "").state is JobState.QUEUED
    assert members_of(core, study_id) == {}

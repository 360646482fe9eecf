"""Studies: their jobs, shared and found again, and what their reports say."""

import csv
import io
from typing import Any

import pytest

from service.errors import InvalidInput, NotFound
from service.jobs import retention
from service.specs.study_spec import NetworkCount, Scale
from service.states import Reason
from service.studies import comparisons, definitions, figure, formats, records
from service.studies.report import Verdict
from tests.support.core import Core, job_id_of
from tests.support.studies import (
    definition,
    finish_next,
    members_of,
    read_report,
    study_spec,
    submit_study,
)


def test_a_study_submits_a_job_for_each_member_and_seed(core: Core) -> None:
    members = members_of(core, submit_study(core))
    assert set(members) == {(label, seed) for label in ("plain-8", "resnet-8") for seed in (0, 1)}
    job = core.job(members["resnet-8", 1] or "")
    assert (job.spec["seed"], job.spec["shortcut"]) == (1, "A")
    assert job.name == "tiny resnet-8 seed 1"


def test_a_second_study_reuses_jobs_and_adds_missing_seeds_only(core: Core) -> None:
    first = members_of(core, submit_study(core))
    second = members_of(core, submit_study(core, seeds=3))
    assert {place: second[place] for place in first} == first
    assert len(set(second.values()) - set(first.values())) == 2


def test_a_job_of_a_user_that_trains_the_same_is_reused(core: Core) -> None:
    spec = study_spec().make_member("plain-8", 0)
    job_id = core.submit(**spec.model_dump(mode="json") | {"name": "mine", "priority": 90})
    assert members_of(core, submit_study(core))["plain-8", 0] == job_id


def _deepened() -> dict[str, Any]:
    """Networks of 8 layers, and of 14 and 20 that are built from them one after the other."""
    members = {
        label: {"depth": depth, "shortcut": "A"}
        for label, depth in (("8", 8), ("14", 14), ("20", 20))
    }
    starts = {
        "14": {"member": "8", "mode": "deepen"},
        "20": {"member": "14", "checkpoint": "best", "mode": "deepen"},
    }
    return definition(members=members, starts=starts, comparisons=[], paper={})


def test_a_member_starts_when_the_one_that_it_starts_from_has_ended(core: Core) -> None:
    core.record_cluster(cpus=8)
    members = members_of(core, submit_study(core, written=_deepened()))
    for seed in (0, 1):
        shallow, middle, deep = (
            core.job(members[label, seed] or "") for label in ("8", "14", "20")
        )
        assert (shallow.state, middle.state, deep.state) == ("queued", "blocked", "blocked")
        start = middle.spec["start_from"]
        assert (start["job"], start["mode"]) == (shallow.id, "deepen")
        assert middle.spec["after"] == [{"job": shallow.id, "condition": "ok"}]
        assert deep.spec["start_from"]["job"] == middle.id
    assert finish_next(core, 5.0) == members["8", 0]
    assert core.job(members["14", 0] or "").state == "queued"
    assert core.job(members["14", 1] or "").state == "blocked"
    again = members_of(core, submit_study(core, written=_deepened(), seeds=3))
    assert {place: again[place] for place in members} == members, "before and after the end"


def test_a_member_that_cannot_start_from_another_is_refused(core: Core) -> None:
    written = _deepened()
    written["members"]["14"]["shortcut"] = "B"
    with pytest.raises(InvalidInput, match="cannot start from this checkpoint"):
        submit_study(core, written=written)


def test_a_scale_has_what_its_members_start_from() -> None:
    written = _deepened()
    written["scales"]["smoke"]["members"] = ["14"]
    with pytest.raises(InvalidInput) as caught:
        study_spec(written=written)
    assert "smoke has 14 without 8" in str(caught.value.field_errors)


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_without_a_result_is_not_reused(core: Core, state: str) -> None:
    first = members_of(core, submit_study(core, seeds=1))
    job_id = first["plain-8", 0] or ""
    if state == "cancelled":
        core.cancel(job_id)
    else:
        core.record_cluster(cpus=8)
        claimed = core.start_next()
        assert job_id_of(claimed) == job_id
        core.finish(claimed.attempt_id, Reason.DIVERGED)
    second = members_of(core, submit_study(core, seeds=1))
    assert second["plain-8", 0] != job_id
    assert second["resnet-8", 0] == first["resnet-8", 0]


def test_a_report_has_means_over_seeds_beside_the_paper(core: Core) -> None:
    core.record_cluster(cpus=8)
    study_id = submit_study(core, scale="paper")
    for error in (9.0, 8.0, 9.5, 8.5, 10.0, 9.0):  # plain-8 and resnet-8 of each seed
        finish_next(core, error)
    report = read_report(core, study_id)
    assert (report.finished, report.total) == (6, 6)
    plain, residual = (member.cells for member in report.members)
    (cell,) = plain.values()
    assert cell.statistics is not None
    assert (cell.statistics.n, cell.statistics.mean, cell.difference) == (3, 9.5, 0.5)
    assert cell.verdict is Verdict.REPRODUCED
    assert [cell.verdict for cell in residual.values()] == [Verdict.REPRODUCED]
    (difference,) = report.differences
    assert difference.found is not None
    assert (difference.found.n, difference.found.mean) == (3, -1.0)
    assert list(report.paper_only) == ["Maxout"]
    markdown = formats.to_markdown(report)
    assert "| 9.50 ± 0.50 | 9.00 | +0.50 | reproduced |" in markdown


def test_a_short_result_is_never_compared_with_the_paper(core: Core) -> None:
    core.record_cluster(cpus=8)
    study_id = submit_study(core, scale="smoke")
    finish_next(core, 50.0)
    report = read_report(core, study_id)
    (cell,) = report.members[0].cells.values()
    assert (cell.verdict, cell.difference) == (Verdict.NOT_COMPARABLE, None)
    assert "are not comparable with these" in formats.to_markdown(report)
    assert report.members[0].gap == "of 2 seeds: 1 queued"


def test_a_deleted_job_is_a_gap(core: Core) -> None:
    study_id = submit_study(core, seeds=1)
    job_id = members_of(core, study_id)["plain-8", 0] or ""
    core.cancel(job_id)
    with core.database.transaction() as session:
        retention.delete_job(session, job_id)
    report = read_report(core, study_id)
    assert report.members[0].jobs == [(0, None, None)]
    assert report.members[0].gap == "of 1 seed: 1 deleted"


def test_every_format_is_equal_for_equal_results(core: Core) -> None:
    core.record_cluster(cpus=8)
    study_id = submit_study(core)
    for error in (9.0, 8.0, 9.5, 8.5):
        finish_next(core, error)
    report = read_report(core, study_id)
    for write in (formats.to_markdown, formats.to_latex, formats.to_csv):
        assert write(report) == write(read_report(core, study_id))
    for kind in ("svg", "png"):
        drawn = figure.draw(report, kind)
        assert drawn == figure.draw(read_report(core, study_id), kind)
    markdown = formats.to_markdown(report)
    assert "| member | network | parameters | n | test error, % | paper, digits |" in markdown
    assert "| plain-8 | plain-8 |  | 2 | 9.25 ± 0.35 | 9.00 |" in markdown
    assert "test error of resnet-8 against plain-8: " in markdown
    latex = formats.to_latex(report)
    assert r"9.25 $\pm$ 0.35 & 9.00" in latex
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(report))))
    assert [(row["member"], row["mean"]) for row in rows] == [
        ("plain-8", "9.2500"),
        ("resnet-8", "8.2500"),
    ]
    svg = figure.draw(report, "svg").decode()
    assert "plain-8 (n = 2)" in svg
    assert "dataset digits" in svg


def test_a_figure_without_results_says_so(core: Core) -> None:
    drawn = figure.draw(read_report(core, submit_study(core)), "svg")
    assert "no results yet" in drawn.decode()


def test_a_comparison_is_of_two_specs_over_seeds(core: Core) -> None:
    core.record_cluster(cpus=8)
    network = {"depth": 8, "dataset": "digits", "recipe": "quick"}
    study = comparisons.make_study(
        network | {"shortcut": "A", "seed": 5},
        network | {"shortcut": "none"},
        metric=definition_metric(),
        seeds=2,
    )
    with core.database.transaction() as session:
        row = records.submit(
            session, study, user="ann", data_dir=core.data_dir, now=core.clock.now
        ).row
        study_id = row.id
    for error in (8.0, 9.0, 8.5, 9.0):
        finish_next(core, error)
    (difference,) = read_report(core, study_id).differences
    assert difference.text == (
        "test error of a against b: within noise: smaller by 0.75 points, p = 0.5 (n = 2); "
        "4 more seeds would show a difference of 0.8 points"
    )


def test_specs_of_different_datasets_are_not_compared() -> None:
    network = {"depth": 8, "shortcut": "A"}
    with pytest.raises(InvalidInput) as caught:
        comparisons.make_study(
            network | {"dataset": "digits"},
            network | {"dataset": "svhn"},
            metric=definition_metric(),
            seeds=2,
        )
    assert caught.value.field_errors[0].pointer == "/b/dataset"


def definition_metric() -> Any:
    return study_spec().definition.metrics[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": {"a": {"depth": 9, "shortcut": "A"}}, "comparisons": []}, "member a"),
        ({"members": {"a": {"depth": 8, "shortcut": "A", "seed": 1}}}, "belong to the study"),
        ({"panels": [{"title": "p", "members": ["b"]}]}, "no member is called b"),
        ({"comparisons": [{"a": "plain-8", "b": "plain-8"}]}, "a and b must differ"),
        ({"title": ""}, "at least 1 character"),
        ({"starts": {"plain-8": {"member": "resnet-8", "mode": "deepen"}}}, "one before it"),
        ({"starts": {"b": {"member": "plain-8", "mode": "deepen"}}}, "b must be a member"),
    ],
)
def test_a_wrong_definition_is_refused_with_the_reason(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        study_spec(written=definition(**changes))
    errors = [str(caught.value), *(error.message for error in caught.value.field_errors)]
    assert any(message in error for error in errors), errors


def test_a_scale_that_a_study_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match="has no scale short; it has paper, smoke"):
        study_spec(scale="short")


def test_every_definition_of_the_service_makes_valid_jobs_at_each_scale() -> None:
    known = definitions.list_definitions()
    tables = {f"table{number}" for number in range(1, 6)}
    assert {"fig1", "fig6", "fig7", "identity-table1"} | tables <= known.keys()
    for found in known.values():
        for scale in found.scales:
            study = study_spec(written=found.model_dump(mode="json"), scale=scale)
            for label in study.labels:
                study.make_member(label, 0)


def test_table_1_counts_without_a_job(core: Core) -> None:
    table1 = definitions.find_definition("table1").model_dump(mode="json")
    report = read_report(core, submit_study(core, written=table1))
    assert (report.finished, report.total) == (0, 0)
    adds = {
        found.label: found.cells[NetworkCount.MULTIPLY_ADDS]
        for found in report.members
        if found.cells[NetworkCount.MULTIPLY_ADDS].statistics is not None
    }
    assert adds.keys() == table1["members"].keys()
    plain = adds["plain-18"].statistics
    assert plain is not None
    assert plain.mean == 1.794805760
    higher = {label for label, cell in adds.items() if cell.verdict is Verdict.HIGHER}
    assert higher == {"VGG-16"}, "which the paper gives as 15.3 billions"
    assert {cell.verdict for cell in adds.values()} == {Verdict.REPRODUCED, Verdict.HIGHER}
    markdown = formats.to_markdown(report)
    assert "Counted for images of imagenet; nothing is trained." in markdown
    row = "| plain-34 | plain-34 | 21.62 | 3.64 | 3.60 | +0.04 | reproduced | 18.5"
    assert row in markdown
    assert "Jobs:" not in markdown


def test_the_paper_scale_of_figure_6_is_the_papers_recipe() -> None:
    fig6 = definitions.find_definition("fig6")
    study = study_spec(written=fig6.model_dump(mode="json"), scale="paper")
    spec = study.make_member("resnet-110", 0)
    assert (spec.recipe.name, spec.recipe.iterations, spec.dataset) == (
        "paper-cifar",
        64_000,
        "cifar10",
    )
    assert study.is_paper_comparable
    assert study.scale is Scale.PAPER


def test_an_unknown_study_is_not_found(core: Core) -> None:
    with pytest.raises(NotFound, match="known are"):
        definitions.find_definition("fig99")
    with core.database.reading() as session, pytest.raises(NotFound):
        records.find_study(session, "0123456789abcdef")

"""Studies of the smallest jobs."""

from typing import Any

from service.specs.protocol import TrainingResult
from service.specs.study_spec import StudyRequest, StudySpec, parse_study_request, resolve_study
from service.states import Reason
from service.storage.tables import StudyRow
from service.studies import analyses, records, report
from service.studies.report import StudyReport
from tests.support.core import Core, job_id_of, make_point, note

TINY = {"name": "quick", "iterations": 20, "evaluate_every": 10, "checkpoint_every": 20}


def definition(**fields: Any) -> dict[str, Any]:
    """A plain and a residual network of 8 layers, with a number of the paper for each."""
    return {
        "name": "tiny",
        "title": "Plain or residual",
        "members": {
            "plain-8": {"depth": 8, "shortcut": "none"},
            "resnet-8": {"depth": 8, "shortcut": "A"},
        },
        "scales": {
            "smoke": {"dataset": "digits", "seeds": 2, "job": {"recipe": TINY}},
            "paper": {"dataset": "digits", "seeds": 3, "job": {"recipe": TINY}},
        },
        "comparisons": [{"a": "resnet-8", "b": "plain-8", "lower": "resnet-8"}],
        "paper": {
            "plain-8": {"test/error": 9.0},
            "resnet-8": {"test/error": 8.75},
            "Maxout": {"test/error": 9.38},
        },
        "paper_dataset": "digits",
        "source": "a table",
    } | fields


def study_spec(*, written: dict[str, Any] | None = None, **request: Any) -> StudySpec:
    parsed: StudyRequest = parse_study_request({"definition": written or definition()} | request)
    assert parsed.definition is not None
    return resolve_study(parsed, parsed.definition)


def submit_study(core: Core, **request: Any) -> str:
    """The id of the study."""
    with core.database.transaction() as session:
        submitted = records.submit(
            session,
            study_spec(**request),
            user="ann",
            data_dir=core.data_dir,
            now=core.clock.now,
        )
        return submitted.row.id


def members_of(core: Core, study_id: str) -> dict[tuple[str, int], str | None]:
    """The job of each label and seed."""
    with core.database.reading() as session:
        members = records.list_members(session, study_id, {})
        return {
            (found.label, found.seed): None if found.job is None else found.job.id
            for found in members
        }


def read_report(core: Core, study_id: str) -> StudyReport:
    with core.database.reading() as session:
        row = session.get(StudyRow, study_id)
        assert row is not None
        return report.make_report(session, row)


def finish_next(core: Core, error: float, **fields: Any) -> str:
    """Runs the next job of the queue to its end; its id."""
    claimed = core.start_next()
    points = [make_point(series, 20, error) for series in ("train/error", "test/error")]
    core.report(claimed.attempt_id, 1, metrics=points, checkpoints=[note(20, test_error=error)])
    result = TrainingResult(train_error=error, test_error=error, training_seconds=1.0, **fields)
    core.finish(claimed.attempt_id, Reason.COMPLETED, result=result)
    core.release(claimed)
    return job_id_of(claimed)


def submit_due_analyses(core: Core, job_id: str) -> None:
    """As the API does when a training ends."""
    with core.database.transaction() as session:
        analyses.submit_due(session, job_id, data_dir=core.data_dir, now=core.clock.now)

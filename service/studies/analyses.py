"""Analyses of a study's members: submitted once the training of a member has succeeded.

That is in the transaction that ends the training, or creates the study, so that no process has to
watch for it. An ensemble is submitted with the last of its trainings. An analysis of the same
checkpoints with equal parameters is reused, if the study's or the training's owner has it.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import InvalidInput
from service.jobs import analyses, records, submission, training_key
from service.specs.analysis_request import AnalysisRequest
from service.specs.analysis_spec import AnalysisSpec, OtherCheckpoint
from service.specs.base import MAX_NAME_LENGTH
from service.specs.study_spec import StudySpec
from service.states import JobState
from service.storage.tables import (
    AnalysisResultRow,
    JobRow,
    StudyAnalysisRow,
    StudyMemberRow,
    StudyRow,
)

# Name of the analysis of an ensemble, whose place in the study is the ensemble's label.
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class MemberAnalysis:
    """An analysis of a member's job. `job`: None if it was deleted, or never submitted.

    `problem`: why it was not submitted. `numbers`: of its result, empty before it has one.
    """

    name: str
    job: JobRow | None
    problem: str | None
    numbers: dict[str, float | None]


def submit_due(session: Session, job_id: str, *, data_dir: Path, now: datetime) -> None:
    """Of all studies that this job, which has succeeded, is a member of.

    Repeated, it submits nothing more. The caller has locked the job.
    """
    rows = session.execute(
        select(StudyRow, StudyMemberRow)
        .join(StudyMemberRow, StudyMemberRow.study_id == StudyRow.id)
        .where(StudyMemberRow.job_id == job_id)
        .order_by(StudyRow.id, StudyMemberRow.label, StudyMemberRow.seed)
    ).all()
    for row, member in rows:
        definition = row.spec["definition"]
        # Most studies have none, and a spec is large.
        if definition.get("analyses") or definition.get("ensembles"):
            study = StudySpec.model_validate(row.spec)
            _submit_for_member(session, row, study, member, data_dir=data_dir, now=now)
            _submit_ensembles(session, row, study, member, data_dir=data_dir, now=now)


def read_analyses(
    session: Session, study_id: str
) -> dict[tuple[str, int], dict[str, MemberAnalysis]]:
    """By label and seed, then by name; those that wait for a training are left out."""
    rows = session.execute(
        select(StudyAnalysisRow, JobRow, AnalysisResultRow.numbers)
        .outerjoin(JobRow, JobRow.id == StudyAnalysisRow.job_id)
        .outerjoin(AnalysisResultRow, AnalysisResultRow.job_id == JobRow.id)
        .where(StudyAnalysisRow.study_id == study_id)
        .order_by(StudyAnalysisRow.label, StudyAnalysisRow.seed, StudyAnalysisRow.name)
    )
    found: dict[tuple[str, int], dict[str, MemberAnalysis]] = {}
    for row, job, numbers in rows:
        analysis = MemberAnalysis(row.name, job, row.problem, numbers or {})
        found.setdefault((row.label, row.seed), {})[row.name] = analysis
    return found


def _submit_for_member(
    session: Session,
    row: StudyRow,
    study: StudySpec,
    member: StudyMemberRow,
    *,
    data_dir: Path,
    now: datetime,
) -> None:
    assert member.job_id is not None
    for name in study.analyses:
        place = _Place(row, member.label, member.seed, name)
        analysis = study.make_analysis(name)
        _submit_once(session, place, member.job_id, analysis, data_dir=data_dir, now=now)


def _submit_ensembles(
    session: Session,
    row: StudyRow,
    study: StudySpec,
    member: StudyMemberRow,
    *,
    data_dir: Path,
    now: datetime,
) -> None:
    """Of this seed, where the trainings of all members have succeeded."""
    chosen = {label: labels for label, labels in study.ensembles.items() if member.label in labels}
    if not chosen:
        return
    # Two trainings that end at once would not see each other's end, and neither would submit.
    session.get(StudyRow, row.id, with_for_update=True)
    trained = session.execute(
        select(StudyMemberRow.label, JobRow.id)
        .join(JobRow, JobRow.id == StudyMemberRow.job_id)
        .where(StudyMemberRow.study_id == row.id, StudyMemberRow.seed == member.seed)
        .where(JobRow.state == JobState.SUCCEEDED)
    )
    job_ids = {label: job_id for label, job_id in trained}  # noqa: C416 - rows are no pairs to mypy
    for label, labels in chosen.items():
        if not job_ids.keys() >= set(labels):
            continue
        first, *others = (job_ids[part] for part in labels)
        analysis = study.make_ensemble(
            tuple(OtherCheckpoint(job=other, checkpoint="newest") for other in others)
        )
        place = _Place(row, label, member.seed, ENSEMBLE)
        _submit_once(session, place, first, analysis, data_dir=data_dir, now=now)


@dataclass(frozen=True)
class _Place:
    """Of an analysis in its study."""

    study: StudyRow
    label: str
    seed: int
    name: str


def _submit_once(
    session: Session,
    place: _Place,
    job_id: str,
    analysis: AnalysisSpec,
    *,
    data_dir: Path,
    now: datetime,
) -> None:
    """The analysis of this job, unless its place has one."""
    key = (place.study.id, place.label, place.seed, place.name)
    if session.get(StudyAnalysisRow, key) is not None:
        return
    problem, found = None, None
    try:
        found = _find_or_submit(session, place, job_id, analysis, data_dir=data_dir, now=now)
    except InvalidInput as error:
        # The training has succeeded, whatever becomes of its analysis.
        problem = _describe(error)
    session.add(
        StudyAnalysisRow(
            study_id=place.study.id,
            label=place.label,
            seed=place.seed,
            name=place.name,
            job_id=found,
            problem=problem,
        )
    )
    session.flush()


def _find_or_submit(
    session: Session,
    place: _Place,
    job_id: str,
    analysis: AnalysisSpec,
    *,
    data_dir: Path,
    now: datetime,
) -> str:
    source = records.find_job(session, job_id)
    title = f"{place.study.spec['definition']['name']} {place.label} seed {place.seed}: "
    request = AnalysisRequest(
        job=source.id,
        # Of the weights that the result of the training is about.
        checkpoint="newest",
        analysis=analysis,
        priority=source.priority,
        name=(title + place.name)[:MAX_NAME_LENGTH],
    )
    unpinned = analyses.make_spec(session, request)
    spec = submission.pin_checkpoints(session, unpinned, data_dir=data_dir)
    key = training_key.training_key(spec, data_dir)
    user = place.study.user
    # The owner of the study sees the training, and with it what else the training's owner has. The
    # session, in which a training ends, sees more.
    known = training_key.find_equal_jobs(session, [key], users={user, source.user})
    if key in known:
        return known[key]
    return submission.create_job(session, spec, user=user, data_dir=data_dir, now=now).id


def _describe(error: InvalidInput) -> str:
    fields = [f"{field.pointer}: {field.message}" for field in error.field_errors]
    return "; ".join([str(error), *fields])


def is_waiting(training: JobRow | None) -> bool:
    """Whether analyses of this training may still be submitted."""
    return training is not None and (
        not training.state.is_final or training.state is JobState.SUCCEEDED
    )

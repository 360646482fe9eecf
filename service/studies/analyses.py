"""Analyses of a study's members: submitted once the training of a member has succeeded.

That is in the transaction that ends the training, or creates the study, so that no process has to
watch for it. An analysis of the same checkpoint with equal parameters is reused.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import InvalidInput
from service.jobs import analyses, records, submission, training_key
from service.specs.analysis_request import AnalysisRequest
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
        # Most studies have none, and a spec is large.
        if row.spec["definition"].get("analyses"):
            _submit_for_member(session, row, member, data_dir=data_dir, now=now)


def list_analyses(session: Session, study_id: str) -> Iterator[tuple[str, int, MemberAnalysis]]:
    """With label and seed of their members; those that wait for a training are not listed."""
    rows = session.execute(
        select(StudyAnalysisRow, JobRow, AnalysisResultRow.numbers)
        .outerjoin(JobRow, JobRow.id == StudyAnalysisRow.job_id)
        .outerjoin(AnalysisResultRow, AnalysisResultRow.job_id == JobRow.id)
        .where(StudyAnalysisRow.study_id == study_id)
        .order_by(StudyAnalysisRow.label, StudyAnalysisRow.seed, StudyAnalysisRow.name)
    )
    for row, job, numbers in rows:
        yield row.label, row.seed, MemberAnalysis(row.name, job, row.problem, numbers or {})


def _submit_for_member(
    session: Session, row: StudyRow, member: StudyMemberRow, *, data_dir: Path, now: datetime
) -> None:
    study = StudySpec.model_validate(row.spec)
    for name in study.analyses:
        place = (row.id, member.label, member.seed, name)
        if session.get(StudyAnalysisRow, place) is not None:
            continue
        problem = None
        try:
            job_id = _find_or_submit(session, row, study, member, name, data_dir=data_dir, now=now)
        except InvalidInput as error:
            # The training has succeeded, whatever becomes of its analysis.
            job_id, problem = None, _describe(error)
        session.add(
            StudyAnalysisRow(
                study_id=row.id,
                label=member.label,
                seed=member.seed,
                name=name,
                job_id=job_id,
                problem=problem,
            )
        )
    session.flush()


def _find_or_submit(
    session: Session,
    row: StudyRow,
    study: StudySpec,
    member: StudyMemberRow,
    name: str,
    *,
    data_dir: Path,
    now: datetime,
) -> str:
    assert member.job_id is not None
    source = records.find_job(session, member.job_id)
    title = f"{study.definition.name} {member.label} seed {member.seed}: {name}"
    request = AnalysisRequest(
        job=source.id,
        # Of the weights that the result of the training is about.
        checkpoint="newest",
        analysis=study.make_analysis(name),
        priority=source.priority,
        name=title[:MAX_NAME_LENGTH],
    )
    unpinned = analyses.make_spec(session, request)
    spec = submission.pin_checkpoints(session, unpinned, data_dir=data_dir)
    key = training_key.training_key(spec, data_dir)
    known = training_key.find_equal_jobs(session, [key])
    if key in known:
        return known[key]
    return submission.create_job(session, spec, user=row.user, data_dir=data_dir, now=now).id


def _describe(error: InvalidInput) -> str:
    fields = [f"{field.pointer}: {field.message}" for field in error.field_errors]
    return "; ".join([str(error), *fields])


def is_waiting(training: JobRow | None) -> bool:
    """Whether analyses of this training may still be submitted."""
    return training is not None and (
        not training.state.is_final or training.state is JobState.SUCCEEDED
    )

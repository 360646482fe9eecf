"""Rows of studies: creating them with their jobs, finding and deleting them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.errors import FieldError, InvalidInput, NotFound
from service.jobs import lifecycle, submission, training_key
from service.specs.job_spec import Dependency, JobSpec, StartFrom
from service.specs.study_spec import StudySpec
from service.states import JobState
from service.storage import idempotency, paging
from service.storage.idempotency import IdempotencyKey, Operation, Submission
from service.storage.paging import Page
from service.storage.tables import JobRow, StudyMemberRow, StudyRow
from service.storage.visibility import VISIBLE_ROWS
from service.studies import analyses
from service.studies.analyses import MemberAnalysis

MAX_JOBS = 500


@dataclass(frozen=True)
class Member:
    """`job`: None once it is deleted. `analyses`: by name, of those that were due."""

    label: str
    seed: int
    job: JobRow | None
    analyses: dict[str, MemberAnalysis]


def submit(
    session: Session,
    study: StudySpec,
    *,
    user: str,
    data_dir: Path,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submission[StudyRow]:
    """Creates the study. Jobs that train or analyse the same are reused, of all that the
    session sees.

    Raises what `service.jobs.submission.submit` raises.
    """
    # It may take a second, so it comes before the first query begins the transaction.
    specs = _make_members(study)
    key = IdempotencyKey.of(Operation.SUBMIT_STUDY, idempotency_key, user=user, body=[study])

    def create() -> list[StudyRow]:
        return [_create(session, study, specs, user=user, data_dir=data_dir, now=now)]

    return idempotency.submit_once(session, StudyRow, create, key=key)[0]


def find_study(session: Session, study_id: str) -> StudyRow:
    row = None
    if ids.is_id(study_id):
        row = session.get(StudyRow, study_id, execution_options=VISIBLE_ROWS)
    if row is None:
        raise NotFound(f"no study {study_id!r}")
    return row


def list_ids_of(session: Session, user: str) -> list[str]:
    """Of all studies of this person."""
    return list(session.scalars(select(StudyRow.id).where(StudyRow.user == user)))


def spec_of(row: StudyRow) -> StudySpec:
    return StudySpec.model_validate(row.spec)


def list_page(
    session: Session,
    *,
    limit: int,
    token: str | None = None,
    id_prefix: str | None = None,
    archived: bool | None = None,
) -> Page[StudyRow]:
    """Newest first."""
    return paging.read_page(
        session, StudyRow, limit=limit, token=token, id_prefix=id_prefix, archived=archived
    )


def list_members(
    session: Session,
    study_id: str,
    by_place: Mapping[tuple[str, int], dict[str, MemberAnalysis]],
) -> list[Member]:
    """By label and seed. `by_place`: of `analyses.read_analyses`."""
    rows = session.execute(
        select(StudyMemberRow, JobRow)
        .outerjoin(JobRow, JobRow.id == StudyMemberRow.job_id)
        .where(StudyMemberRow.study_id == study_id)
        .order_by(StudyMemberRow.label, StudyMemberRow.seed)
    )
    return [
        Member(member.label, member.seed, job, by_place.get((member.label, member.seed), {}))
        for member, job in rows
    ]


def delete_study(session: Session, study_id: str) -> None:
    """Its jobs stay: others may use them."""
    session.delete(find_study(session, study_id))


def _make_members(study: StudySpec) -> dict[tuple[str, int], JobSpec]:
    """The specs of the jobs by label and seed, in the order of their submission."""
    if not study.is_training:
        return {}
    count = len(study.labels) * (1 + len(study.analyses)) + len(study.ensembles)
    count *= study.seeds
    if count > MAX_JOBS:
        message = f"a study has at most {MAX_JOBS} jobs; this one would have {count}"
        raise InvalidInput(message, field_errors=(FieldError(pointer="/seeds", message=message),))
    return {
        (label, seed): study.make_member(label, seed)
        for seed in study.all_seeds
        for label in study.labels
    }


def _create(
    session: Session,
    study: StudySpec,
    specs: Mapping[tuple[str, int], JobSpec],
    *,
    user: str,
    data_dir: Path,
    now: datetime,
) -> StudyRow:
    row = StudyRow(
        id=ids.new_id(now),
        name=study.definition.title,
        spec=study.model_dump(mode="json"),
        user=user,
        created_at=now,
        event_count=0,
    )
    session.add(row)
    session.flush()
    found: dict[tuple[str, int], str] = {}
    reused: list[JobRow] = []
    for labels in study.generations:
        chosen = {
            (label, seed): _add_start(study, label, spec, found.get)
            for (label, seed), spec in specs.items()
            if label in labels
        }
        keys = {place: training_key.training_key(spec, data_dir) for place, spec in chosen.items()}
        known = training_key.find_equal_jobs(session, keys.values())
        # One of them may end at this moment: its analyses are submitted there, or here.
        locked = sorted(known.values()) if study.analyses or study.ensembles else []
        reused += [lifecycle.lock_job(session, job_id) for job_id in locked]
        new = {key: chosen[place] for place, key in keys.items() if key not in known}
        submitted = submission.submit_batch(
            session, list(new.values()), user=user, data_dir=data_dir, now=now
        )
        known |= dict(zip(new, (created.row.id for created in submitted), strict=True))
        found |= {place: known[key] for place, key in keys.items()}
    session.add_all(
        StudyMemberRow(study_id=row.id, label=label, seed=seed, job_id=job_id)
        for (label, seed), job_id in found.items()
    )
    session.flush()
    for job in reused:
        if job.state is JobState.SUCCEEDED:
            analyses.submit_due(session, job.id, data_dir=data_dir, now=now)
    return row


def _add_start(
    study: StudySpec,
    label: str,
    spec: JobSpec,
    find_job: Callable[[tuple[str, int]], str | None],
) -> JobSpec:
    """The spec with the job that the member starts from, which it waits for."""
    start = study.definition.starts.get(label)
    if start is None:
        return spec
    job_id = find_job((start.member, spec.seed))
    assert job_id is not None, "an earlier generation"
    source = StartFrom(job=job_id, checkpoint=start.checkpoint, mode=start.mode)
    after = (*spec.after, Dependency(job=job_id))
    return spec.model_copy(update={"start_from": source, "after": after})

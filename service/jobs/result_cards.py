"""Result cards of finished jobs: built from what the service has recorded, and signed.

An unchanged job has the same card, byte for byte: it has no time of issue, Ed25519 has no random
numbers, and names, tags and notes are left out.
"""

import base64
import hashlib
import itertools

import rfc8785
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.access.signing_keys import SigningKey
from service.errors import Conflict
from service.jobs import checkpoints, metrics, records
from service.jobs.training_key import UNTRAINED_FIELDS
from service.specs.analysis_spec import TRAINING
from service.specs.protocol import RunEnvironment
from service.specs.result_card import (
    CardCheckpoint,
    CardCode,
    CardDataset,
    CardFile,
    CardHardware,
    CardJob,
    CardMetrics,
    CardResult,
    CardSignature,
    CardTraining,
    ResultCard,
    SignedResultCard,
)
from service.specs.series import MachineSeries
from service.states import JobState
from service.storage.tables import CheckpointRow, JobRow, MetricRow


def build_result_card(session: Session, job_id: str) -> ResultCard:
    """Conflict where the training is not complete, NotFound where there is no such job."""
    job = records.find_job(session, job_id)
    if job.kind != TRAINING:
        raise Conflict(f"job {job.id} is an analysis; only a completed training has a result card")
    if job.state is not JobState.SUCCEEDED:
        what = job.state.past_phrase if job.state.is_final else f"is {job.state}"
        raise Conflict(f"job {job.id} {what}; only a completed training has a result card")
    environment, result = records.environment_of(job), records.result_of(job)
    found = checkpoints.list_checkpoints(session, job.id)
    if environment is None or result is None or result.test_error is None or not found:
        raise Conflict(f"job {job.id} has no weights with a test error, so no result card")
    assert job.started_at is not None, "it has trained"
    assert job.finished_at is not None, "it is final"
    newest, best = found[0], checkpoints.pick_best(found)
    versions = dict(environment.versions)
    numerics = dict(environment.numerics)
    return ResultCard(
        job=CardJob(
            id=job.id,
            network=records.architecture_of(job).label,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            attempts=job.attempts,
            start_iteration=job.source_iteration,
        ),
        spec={name: value for name, value in job.spec.items() if name not in UNTRAINED_FIELDS},
        training_key=job.training_key,
        code=CardCode(
            version=versions.pop("resnetd", None),
            commit=versions.pop("commit", None),
            training_code_sha256=versions.pop("training_code_sha256", None),
        ),
        packages=versions,
        dataset=CardDataset(
            name=job.dataset,
            classes=environment.classes,
            train_images=environment.train_images,
            test_images=environment.test_images,
            checksum=environment.data_checksum,
        ),
        hardware=CardHardware(
            device=environment.device,
            num_workers=environment.num_workers,
            machine=numerics.pop("machine", None),
            cpu_capability=numerics.pop("cpu_capability", None),
            numerics=numerics,
        ),
        training=CardTraining(
            iterations=job.iterations,
            seconds=result.training_seconds,
            gpu_energy_joules=_sum_energy(session, job),
        ),
        result=CardResult(
            test_error=result.test_error,
            wrong_test_images=_count_wrong(result.test_error, environment),
            test_top5_error=result.test_top5_error,
            validation_error=result.validation_error,
            train_error=result.train_error,
        ),
        metrics=_hash_metrics(session, job),
        checkpoints=[
            _describe_checkpoint(row, environment)
            for row in ([newest] if best.id == newest.id else [newest, best])
        ],
    )


def sign_result_card(card: ResultCard, key: SigningKey) -> bytes:
    """The SignedResultCard as canonical JSON, in which the signed bytes are the value of `card`."""
    content = card.model_dump(mode="json")
    signed = SignedResultCard(
        card=card,
        signature=CardSignature(
            key_fingerprint=key.fingerprint,
            value=base64.b64encode(key.sign(rfc8785.dumps(content))).decode(),
        ),
    )
    return rfc8785.dumps(signed.model_dump(mode="json")) + b"\n"


def _count_wrong(error: float, environment: RunEnvironment) -> int:
    """An error is a count of images, given in percent."""
    return round(error / 100 * environment.test_images)


def _describe_checkpoint(row: CheckpointRow, environment: RunEnvironment) -> CardCheckpoint:
    error = row.test_error
    return CardCheckpoint(
        id=row.id,
        iteration=row.iteration,
        test_error=error,
        wrong_test_images=None if error is None else _count_wrong(error, environment),
        files={
            part: CardFile(sha256=file.sha256, size_bytes=file.size_bytes)
            for part, file in checkpoints.files_of(row).items()
        },
    )


def _hash_metrics(session: Session, job: JobRow) -> CardMetrics | None:
    digest, lines = hashlib.sha256(), 0
    for part in metrics.iterate_csv(session, job):
        digest.update(part.encode())
        lines += part.count("\n")
    points = lines - 1  # the header
    return None if points == 0 else CardMetrics(sha256=digest.hexdigest(), points=points)


def _sum_energy(session: Session, job: JobRow) -> float | None:
    """Each sample of the power is taken for the training time since the one before it."""
    statement = (
        select(MetricRow.seconds, MetricRow.value)
        .where(
            MetricRow.job_id == job.id,
            MetricRow.series == MachineSeries.GPU_POWER_WATTS,
            MetricRow.value.is_not(None),
        )
        .order_by(MetricRow.iteration)
    )
    samples: list[tuple[float, float | None]] = [(0.0, 0.0), *session.execute(statement)]
    if len(samples) == 1:
        return None
    return sum(
        (seconds - before) * (watts or 0.0)
        for (before, _), (seconds, watts) in itertools.pairwise(samples)
    )

"""Why a job waits: reason, position, expected start; and what a spec would become."""

from datetime import timedelta
from typing import Any

import pytest

from service.errors import CannotFit
from service.scheduling import queue_status
from service.scheduling.estimates import Estimator
from service.scheduling.policy import EstimateBasis
from service.scheduling.queue_status import JobPlan, JobQueueStatus, QueueStatus, WaitReason
from service.specs.protocol import Progress
from service.states import Reason
from tests.support.core import Core, job_id_of, make_point, spec, workers

QUICK = {"name": "quick", "iterations": 100}


def status(core: Core, job_id: str) -> JobQueueStatus | None:
    with core.database.reading() as session:
        queue = QueueStatus(session, data_dir=core.data_dir, now=core.clock.now)
        return queue.explain(core.job(job_id))


def code(core: Core, job_id: str) -> WaitReason:
    found = status(core, job_id)
    assert found is not None
    return found.code


def plan(core: Core, **fields: Any) -> JobPlan:
    with core.database.transaction() as session:
        return queue_status.plan_job(
            session,
            spec(**fields),
            user="ann",
            data_dir=core.data_dir,
            now=core.clock.now,
        )


def measure(core: Core) -> None:
    """Runs a job of 100 iterations that takes 2 s to start and 100 s to train."""
    claimed = core.start(recipe=QUICK)
    core.clock.advance(2.0)
    core.report(claimed.attempt_id, 1)
    core.clock.advance(100.0)
    points = [
        make_point(series="train/loss", iteration=100, value=0.5),
        make_point(series="machine/memory_bytes", iteration=100, value=720e6),
    ]
    core.report(claimed.attempt_id, 2, metrics=points)
    core.finish(claimed.attempt_id)
    core.release(claimed)


def test_a_job_that_does_not_wait_has_no_status(core: Core) -> None:
    assert status(core, job_id_of(core.run())) is None


def test_each_reason_to_wait_has_its_code(core: Core) -> None:
    first = core.submit()
    assert code(core, first) is WaitReason.NO_DISPATCHER
    core.record_cluster(cpus=2)
    core.set_quota("tag:t", jobs=0)
    assert code(core, first) is WaitReason.NEXT
    running = core.start_next()
    large = core.submit(resources=workers(2))
    assert code(core, large) is WaitReason.RESOURCES
    assert code(core, core.submit()) is WaitReason.BEHIND
    assert code(core, core.submit(tags=["t"])) is WaitReason.LIMIT
    assert code(core, core.submit(hold=True)) is WaitReason.HELD
    assert code(core, core.submit(after=[large])) is WaitReason.DEPENDENCY
    core.command("pause", large)
    assert code(core, large) is WaitReason.PAUSED
    core.end(running, Reason.WORKER_DIED)
    assert code(core, first) is WaitReason.BACKOFF
    core.command("resume", large)
    core.record_cluster(cpus=1)
    assert code(core, large) is WaitReason.TOO_LARGE


def test_a_dispatcher_that_was_silent_for_a_minute_is_reported_missing(core: Core) -> None:
    core.record_cluster(cpus=2)
    job_id = core.submit()
    core.clock.advance(61.0)
    assert code(core, job_id) is WaitReason.NO_DISPATCHER


def test_the_message_names_what_is_missing_and_when_it_becomes_free(core: Core) -> None:
    measure(core)
    core.record_cluster(cpus=2)
    core.submit(recipe=QUICK)
    running = core.start_next()
    job_id = core.submit(resources=workers(2))
    for seconds, end in ((0, "in 1.7 minutes"), (600, "soon")):
        core.clock.advance(seconds)
        core.record_cluster(cpus=2)
        waiting = status(core, job_id)
        assert waiting is not None
        assert waiting.message.startswith("needs 2 CPUs; 1 is free; ")
        assert waiting.message.endswith(f"job {job_id_of(running)} is expected to end {end}")


def test_the_end_of_a_running_job_follows_from_its_progress_before_its_first_evaluation(
    core: Core,
) -> None:
    running = core.start(recipe=QUICK)
    core.record_cluster(cpus=1)
    waiting = core.submit()
    unmeasured = status(core, waiting)
    assert unmeasured is not None
    assert unmeasured.message.endswith(
        f"job {job_id_of(running)} ends in at most 1 day, its time limit: "
        "its speed is not measured yet"
    )
    core.report(running.attempt_id, 1)
    core.clock.advance(30.0)
    progress = Progress(iteration=20, iterations=100, images_per_second=None)
    core.report(running.attempt_id, 2, progress=progress)
    measured = status(core, waiting)
    assert measured is not None
    assert measured.message.endswith(f"job {job_id_of(running)} is expected to end in 2 minutes")


def test_a_start_is_expected_where_the_jobs_ahead_were_measured(core: Core) -> None:
    measure(core)
    core.record_cluster(cpus=1)
    core.submit(recipe=QUICK)
    running = core.start_next()
    second, third = core.submit(recipe=QUICK), core.submit(recipe=QUICK)
    began = core.attempt(running.attempt_id).created_at
    for position, job_id in enumerate((second, third), start=1):
        found = status(core, job_id)
        assert found is not None
        assert found.position == position
        assert found.starts_p50 == began + position * timedelta(seconds=102)


def test_no_start_is_expected_behind_a_job_that_was_never_measured(core: Core) -> None:
    measure(core)
    core.record_cluster(cpus=1)
    other_kind = {"gpus_per_worker": 0}  # only jobs with the same resources are compared
    core.submit(shortcut="B", recipe=QUICK, resources=other_kind)
    core.start_next()
    core.submit(resources=other_kind)
    last = status(core, core.submit(recipe=QUICK))
    assert last is not None
    assert last.starts_p50 is None


def test_a_parked_job_has_its_reason_in_the_message(core: Core) -> None:
    claimed = core.run()
    for _ in range(2):
        core.end(claimed, Reason.WORKER_DIED)
        core.release(claimed)
        claimed = core.retry()
    core.end(claimed, Reason.WORKER_DIED)
    found = status(core, job_id_of(claimed))
    assert found is not None
    assert found.code is WaitReason.PARKED
    assert "3 attempts in a row failed at iteration 0" in found.message


def test_waiting_raises_the_effective_priority(core: Core) -> None:
    core.record_cluster(cpus=1)
    job_id = core.submit(priority=20)
    core.clock.advance(1800.0)
    found = status(core, job_id)
    assert found is not None
    assert found.effective_priority == 23.0


def test_queued_jobs_are_listed_before_jobs_that_may_not_start(core: Core) -> None:
    held = core.submit(hold=True, priority=100)
    second, first = core.submit(priority=10), core.submit(priority=90)
    core.submit(priority=0)
    with core.database.reading() as session:
        found = queue_status.list_waiting_jobs(session, limit=3)
        assert [job.id for job in found[:2]] == [first, second]
        assert held not in {job.id for job in found}


def test_a_plan_has_the_model_stats_and_submits_nothing(core: Core) -> None:
    core.record_cluster(cpus=4)
    planned = plan(core, depth=20, dataset="cifar10")
    assert planned.model_stats is not None
    # He et al. 2015, table 6: 0.27M parameters.
    assert planned.model_stats.parameters == 269_722
    tensors = 4 * (3 * 269_722 + 2 * planned.model_stats.activations * 128)
    assert planned.tensor_bytes == tensors
    images = 60_000 * 32 * 32 * 3
    assert planned.resident_bytes == 489 * 2**20 + tensors + images
    assert planned.duration is None
    assert planned.queue_status.code is WaitReason.NEXT
    assert core.try_claim() is None


def test_a_plan_estimates_its_duration_from_jobs_with_the_same_timing_key(core: Core) -> None:
    measure(core)
    planned = plan(core, recipe=QUICK | {"iterations": 200})
    assert planned.duration is not None
    assert planned.duration.p50 == 2.0 + 200 * 1.0
    assert (planned.duration.basis, planned.duration.samples) == (EstimateBasis.SAME, 1)
    assert planned.resident_bytes == 720_000_000, "as the job reported"


def test_a_plan_takes_no_longer_than_its_max_seconds(core: Core) -> None:
    core.record_cluster(cpus=1)
    limited = QUICK | {"iterations": 200, "max_seconds": 30}
    unmeasured = plan(core, recipe=limited).duration
    assert unmeasured is not None
    assert (unmeasured.p50, unmeasured.basis) == (30.0, EstimateBasis.MAX_SECONDS)

    measure(core)
    measured = [plan(core, recipe=limited | {"iterations": n}).duration for n in (20, 200)]
    assert [found and found.p50 for found in measured] == [2.0 + 20 * 1.0, 2.0 + 30.0]


def test_a_running_job_is_expected_to_end_with_its_max_seconds(core: Core) -> None:
    claimed = core.start(recipe=QUICK | {"iterations": 200, "max_seconds": 30})
    core.report(claimed.attempt_id, 1)
    core.clock.advance(5.0)
    progress = Progress(iteration=5, iterations=200, images_per_second=None)
    core.report(claimed.attempt_id, 2, progress=progress)
    attempt, job = core.attempt(claimed.attempt_id), core.job(job_id_of(claimed))
    with core.database.reading() as session:
        found = Estimator(session).estimate_remaining(attempt, job, now=core.clock.now)
    assert (found.p50, found.basis) == (25.0, EstimateBasis.PROGRESS)


def test_the_duration_of_a_new_network_is_scaled_by_multiply_adds(core: Core) -> None:
    measure(core)
    small, large = plan(core, depth=8, recipe=QUICK), plan(core, depth=14, recipe=QUICK)
    assert small.model_stats is not None
    assert large.model_stats is not None
    assert small.duration is not None
    assert large.duration is not None
    ratio = large.model_stats.multiply_adds / small.model_stats.multiply_adds
    assert large.duration.basis is EstimateBasis.OTHER_NETWORKS
    assert (large.duration.p50 - 2.0) / (small.duration.p50 - 2.0) == pytest.approx(ratio)


def test_a_plan_has_the_position_that_the_job_would_have(core: Core) -> None:
    core.record_cluster(cpus=1)
    core.start_small(cpus=1)
    core.submit(priority=60)
    core.submit(priority=40)
    assert plan(core, priority=50).queue_status.position == 2


def test_a_plan_is_refused_as_the_job_would_be(core: Core) -> None:
    core.record_cluster(cpus=1)
    with pytest.raises(CannotFit):
        plan(core, resources=workers(2))

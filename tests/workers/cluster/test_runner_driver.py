import pickle
import sys
from pathlib import Path

import psutil
import pytest
from ray.train import ControllerError, WorkerGroupError

from deploy.ray_head import RayHead
from service.resources import WorkerGroup
from service.specs.protocol import RunEnvironment
from service.states import CheckpointPart, Reason, StopReason
from tests.support.fake_api import (
    RUNNER_ID,
    TOKEN,
    FakeApi,
    digits_config,
    eventually,
    fake_api,
)
from tests.support.ray import processes_of
from workers.cluster import runner_driver, runner_main
from workers.cluster.attempt_outcome import AttemptFailed
from workers.cluster.process_settings import RunnerSettings
from workers.cluster.ray_jobs import ClusterJobState, RayJobClient, runner_env

# A runner starts in 10 s on two idle cores, and in 15 s on busy ones.
_START_SECONDS = 120.0


class Submitted:
    """A runner as the dispatcher submits it, for the attempt of the fake API."""

    def __init__(
        self,
        jobs: RayJobClient,
        api: FakeApi,
        submission_id: str,
        path: Path,
        *,
        num_nodes: int = 1,
    ) -> None:
        resources = api.attempt.spec.resources
        self._jobs = jobs
        self.api = api
        self.submission_id = submission_id
        self.work_dir = path / "work"
        jobs.submit(
            submission_id,
            entrypoint=f"{sys.executable} -m workers runner",
            env_vars=runner_env(
                api_url=api.url,
                runner_id=RUNNER_ID,
                worker_group=WorkerGroup(resources.max_workers, resources.cpus_per_worker, 0),
                token=TOKEN,
                data_dir=path / "data",
                work_dir=self.work_dir,
                num_nodes=num_nodes,
                log_format="console",
            ),
            metadata={},
        )

    @property
    def state(self) -> ClusterJobState:
        job = self._jobs.find_job(self.submission_id)
        assert job is not None
        return job.state

    def environment(self) -> RunEnvironment:
        """The newest attempt's, once its processes run."""
        found: list[RunEnvironment] = []

        def is_up() -> bool:
            assert not self.state.is_final, self._jobs.read_log_tail(self.submission_id)
            found[:] = [report.environment for report in self.api.reports if report.environment]
            return bool(found)

        eventually(is_up, within_seconds=_START_SECONDS)
        return found[-1]

    def wait_until_final(self) -> ClusterJobState:
        eventually(lambda: self.state.is_final, within_seconds=_START_SECONDS)
        return self.state

    def files_left(self) -> list[Path]:
        return [path for path in self.work_dir.rglob("*") if path.is_file()]


@pytest.mark.ray
def test_a_runner_trains_several_attempts_and_leaves_no_process_when_stopped(
    head: RayHead, tmp_path: Path
) -> None:
    config = digits_config(iterations=20, num_workers=2)
    with fake_api(config) as api, RayJobClient(url=head.url, token=head.token) as jobs:
        api.rounds = 3
        api.final_config = digits_config(iterations=1_000_000, num_workers=2)
        runner = Submitted(jobs, api, "thrice-a1", tmp_path)

        def pids() -> list[set[int]]:
            assert not runner.state.is_final, jobs.read_log_tail("thrice-a1")
            return [set(report.environment.pids) for report in api.reports if report.environment]

        eventually(lambda: len(pids()) == 4, within_seconds=_START_SECONDS)
        assert [finish.reason for finish in api.finishes] == [Reason.COMPLETED] * 3
        processes = set.union(*pids())
        assert len(processes) == 8, "each attempt has its own"
        begins = [number for number, report in enumerate(api.reports) if report.environment]
        completed = api.reports[: begins[3]]
        # The same seed and images: no state of an attempt leaks into the next.
        points = [point for report in completed for point in report.metrics]
        losses = [point.value for point in points if point.series == "train/loss"]
        assert losses[:4] == losses[4:8] == losses[8:]
        weights = [
            digest.sha256
            for report in completed
            for manifest in report.checkpoints
            for digest in manifest.parts
            if manifest.iteration == 20 and digest.part is CheckpointPart.PT
        ]
        assert len(weights) == 3
        assert len(set(weights)) == 1
        # Reported once, by rank 0 only.
        iterations = [point.iteration for point in points if point.series == "train/loss"]
        assert iterations == [5, 10, 15, 20] * 3
        assert api.violations == []

        jobs.stop("thrice-a1")
        assert runner.wait_until_final() is ClusterJobState.STOPPED
        assert len(api.finishes) == 3
        eventually(lambda: not any(map(psutil.pid_exists, processes)), within_seconds=30)


@pytest.mark.ray
def test_a_stopped_attempt_and_the_death_of_a_worker_are_reported(
    head: RayHead, tmp_path: Path
) -> None:
    config = digits_config(iterations=1_000_000, num_workers=2)
    with fake_api(config) as api, RayJobClient(url=head.url, token=head.token) as jobs:
        api.rounds = 2
        api.stop = StopReason.CANCEL
        # As on a cluster where the driver may run on another node than the ranks.
        runner = Submitted(jobs, api, "death-a1", tmp_path, num_nodes=2)
        stopped = runner.environment()
        eventually(lambda: runner.environment() != stopped, within_seconds=60)
        num_points = len(api.points)
        eventually(lambda: len(api.points) > num_points, within_seconds=60)
        # The process that Ray started; the rank's training process must end with it.
        _ray_workers(head, api)[0].kill()
        assert runner.wait_until_final() is ClusterJobState.SUCCEEDED

        assert [finish.reason for finish in api.finishes] == [Reason.CANCELLED, Reason.WORKER_DIED]
        # Reports that rank 0 left were delivered first.
        assert [report.sequence for report in api.reports] == list(range(1, len(api.reports) + 1))
        assert api.violations == []
        assert runner.files_left() == []


def _ray_workers(head: RayHead, api: FakeApi) -> list[psutil.Process]:
    """The processes of the runner's ranks."""
    workers = processes_of(head, "ray::RayTrainWorker")
    return [worker for worker in workers if worker.environ().get("RESNETD_API_URL") == api.url]


def failure(rank: int, error: Exception) -> WorkerGroupError:
    return WorkerGroupError("it failed", {rank: error})


def pickled(reason: Reason, message: str) -> Exception:
    """A rank's failure as it arrives in another process."""
    arrived = pickle.loads(pickle.dumps(AttemptFailed(reason, message)))
    assert isinstance(arrived, Exception)
    return arrived


def test_the_reason_of_a_rank_is_the_reason_of_the_attempt() -> None:
    cause = runner_driver._find_cause(
        failure(1, pickled(Reason.DIVERGED, "the loss is nan\nat iteration 3"))
    )
    assert (cause.reason, cause.message) == (Reason.DIVERGED, "the loss is nan\nat iteration 3")


def test_of_several_failures_the_cause_is_reported() -> None:
    error = WorkerGroupError(
        "all failed",
        {
            0: pickled(Reason.WORKER_DIED, "gloo/transport: connection closed by peer"),
            1: pickled(Reason.OUT_OF_MEMORY, "CUDA out of memory"),
        },
    )
    assert runner_driver._find_cause(error).reason is Reason.OUT_OF_MEMORY


class WorkerHealthCheckFailedError(Exception):
    """Named as Ray's."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (WorkerHealthCheckFailedError("the actor is dead"), Reason.WORKER_DIED),
        (
            WorkerHealthCheckFailedError("killed: the node was running low on memory"),
            Reason.OUT_OF_MEMORY,
        ),
        (ImportError("no module named workers"), Reason.INTERNAL),
    ],
)
def test_failures_that_no_rank_reports_have_a_reason(error: Exception, reason: Reason) -> None:
    assert runner_driver._find_cause(failure(1, error)).reason is reason


def test_a_failed_controller_is_an_internal_error() -> None:
    assert (
        runner_driver._find_cause(ControllerError(ValueError("storage"))).reason is Reason.INTERNAL
    )


def test_a_runner_without_settings_exits_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESNETD_API_URL", raising=False)
    assert runner_main.main() == 2


def test_a_failure_can_be_pickled() -> None:
    failed = pickle.loads(pickle.dumps(AttemptFailed(Reason.DIVERGED, "nan")))
    assert (failed.reason, failed.message) == (Reason.DIVERGED, "nan")


@pytest.mark.parametrize(
    ("oom_kills", "note"),
    [(0, None), (1, "killed 1 process on its node because memory was used up")],
)
def test_the_death_of_a_process_of_ray_mentions_the_kernels_kills_for_memory(
    oom_kills: int, note: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = [4]

    class Trainer:
        def __init__(self, *_: object, **__: object) -> None: ...

        def fit(self) -> None:
            count[0] += oom_kills
            raise failure(1, WorkerHealthCheckFailedError("the actor is dead"))

    monkeypatch.setattr(runner_driver, "read_oom_kills", lambda: count[0])
    monkeypatch.setattr(runner_driver, "TorchTrainer", Trainer)
    monkeypatch.setattr("ray.init", lambda **_: None)
    settings = RunnerSettings(
        "http://api", RUNNER_ID, TOKEN, WorkerGroup(2, 1, 0), tmp_path, tmp_path
    )
    with pytest.raises(AttemptFailed, match="rank 1 died: the actor is dead") as caught:
        runner_driver._fit(settings)
    assert caught.value.reason is Reason.WORKER_DIED
    assert ("memory" in caught.value.message) == (note is not None)
    assert note is None or note in caught.value.message

"""docker-compose.yml on a Docker engine: `make test-containers`."""

import hashlib
import io
import re
import tarfile
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import resnetd
from tests.chaos.workload import Points, comparable_points, weights_sha256
from tests.containers.deployment import REPORT, Deployment, report
from tests.containers.engine import OWN_ADDRESS
from tests.containers.receiver import Receiver
from tests.support.collector import Collector

# The first test builds the images, most of the time for the download of torch.
pytestmark = [pytest.mark.containers, pytest.mark.timeout(5_400)]

SERVICES = ("postgres", "api", "dispatcher", "ray-head", "ray-worker")
JOB_SECONDS = 400.0
# Each node has one CPU: a rank.
JOB = {
    "dataset": "folder:colours",
    "depth": 8,
    "shortcut": "A",
    "recipe": {
        "name": "quick",
        "iterations": 300,
        "batch_size": 16,
        "evaluate_every": 150,
        "checkpoint_every": 25,
    },
    "family": "cifar",
    "resources": {"num_workers": 2},
}
# Prints 0 if a connection to the address of its arguments can be made.
_CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
except OSError as error:
    print(error)
else:
    print("connected")
"""


def colours() -> bytes:
    """An archive of 60 images of noise on one of three colours."""
    random = np.random.default_rng(0)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for number in range(60):
            label = number % 3
            pixels = random.integers(0, 248, (32, 32, 3), dtype=np.uint8)
            pixels[..., label] += 8
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "png")
            member = tarfile.TarInfo(f"colours/{'rgb'[label]}/{number}.png")
            member.size = len(image.getvalue())
            image.seek(0)
            tar.addfile(member, image)
    return archive.getvalue()


def upload(deployment: Deployment) -> None:
    """As docs/how-to/use-your-own-images.md."""
    archive = colours()
    response = httpx.post(
        f"{deployment.url}/v1/datasets",
        params={"name": "colours"},
        headers={
            "Authorization": f"Bearer {deployment.token}",
            "X-Content-SHA256": hashlib.sha256(archive).hexdigest(),
        },
        content=archive,
        timeout=60.0,
        trust_env=False,
    )
    assert response.is_success, response.text


def points(client: resnetd.Client, job_id: str) -> Points:
    return comparable_points(
        [
            (name, iteration, value)
            for name, series in client.jobs.metrics(job_id).items()
            for iteration, value in zip(series.iterations, series.values, strict=True)
        ]
    )


class Undisturbed:
    """What the job reports and leaves when nothing happens to it."""

    def __init__(self, client: resnetd.Client, job: resnetd.Job, folder: Path) -> None:
        self.job = job
        self.points = points(client, job.id)
        self.weights_sha256 = weights_sha256(client.jobs.download(job.id, "newest", path=folder))

    def check(self, client: resnetd.Client, job: resnetd.Job, folder: Path) -> None:
        """The job has succeeded, with each metric once and the same weights."""
        assert job.state == "succeeded", (job.message, client.jobs.attempts(job.id))
        assert points(client, job.id) == self.points
        weights = client.jobs.download(job.id, "newest", path=folder)
        assert weights_sha256(weights) == self.weights_sha256


def submit_and_wait_until_running(deployment: Deployment, client: resnetd.Client) -> str:
    """Until the job has a checkpoint. Returns its id."""
    # A job that does not fit the nodes of this moment is refused.
    deployment.wait_until(lambda: client.cluster().document["cpus"] == 2, within_seconds=120.0)
    job_id = client.submit(JOB).id

    def is_running() -> bool:
        job = client.jobs.get(job_id)
        assert not job.is_final, job.message
        return job.progress is not None and job.progress.iteration >= 50

    deployment.wait_until(is_running, within_seconds=JOB_SECONDS)
    return job_id


def wait_until_final(deployment: Deployment, client: resnetd.Client, job_id: str) -> resnetd.Job:
    deployment.wait_until(lambda: client.jobs.get(job_id).is_final, within_seconds=JOB_SECONDS)
    return client.jobs.get(job_id)


@pytest.fixture(scope="session")
def undisturbed(
    deployment: Deployment,
    receiver: Receiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Undisturbed:
    """Of a job on an upload, with a webhook."""
    with deployment.client() as client:
        client.webhooks.create(f"http://{OWN_ADDRESS}:{receiver.port}/hook")
        upload(deployment)
        started = time.monotonic()
        job_id = submit_and_wait_until_running(deployment, client)
        REPORT.append(f"first job, from POST to iteration 50: {time.monotonic() - started:.1f} s")
        ranks = [
            [line for line in deployment.processes(container) if "RayTrainWorker" in line]
            for container in deployment.containers("ray-worker")
        ]
        assert [len(lines) for lines in ranks] == [1, 1], ranks
        job = wait_until_final(deployment, client, job_id)
        assert job.state == "succeeded", (job.message, deployment.logs())
        REPORT.append(f"job of two ranks, from POST to its end: {time.monotonic() - started:.1f} s")
        return Undisturbed(client, job, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_privileges(deployment: Deployment, service: str) -> None:
    status = deployment.execute(service, "cat", "/proc/1/status").splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert fields["Uid"].split()[0] != "0"
    assert {fields[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"


@pytest.mark.parametrize("service", ["api", "dispatcher"])
def test_a_read_only_container_writes_to_tmp_only(deployment: Deployment, service: str) -> None:
    written = deployment.execute(
        service,
        "sh",
        "-c",
        "for folder in / /home/resnetd /opt/resnetd /usr /var/lib/resnetd /tmp;"
        "do touch $folder/x 2>/dev/null && echo $folder; done; rm -f /tmp/x",
    )
    assert written.split() == ["/tmp"]


def test_ray_and_the_database_reach_nothing_else(
    deployment: Deployment, receiver: Receiver
) -> None:
    def connect(service: str, host: str, port: int) -> str:
        return deployment.execute(service, "python", "-c", _CONNECT, host, str(port)).strip()

    for service in ("ray-head", "ray-worker"):
        assert connect(service, "api", 8000) == "connected"
        assert connect(service, OWN_ADDRESS, receiver.port) != "connected"
        assert connect(service, "postgres", 5432) != "connected"
    assert connect("dispatcher", OWN_ADDRESS, receiver.port) == "connected"
    assert connect("dispatcher", "postgres", 5432) == "connected"


def test_weights_are_downloaded(
    deployment: Deployment, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with deployment.client() as client:
        assert load_file(client.jobs.download(undisturbed.job.id, "newest", path=tmp_path))


def test_a_webhook_leaves_the_containers(
    deployment: Deployment, undisturbed: Undisturbed, receiver: Receiver
) -> None:
    def is_notified() -> bool:
        ends = [body["data"] for body in receiver.bodies if body["type"] == "job.succeeded"]
        return undisturbed.job.id in [data["id"] for data in ends]

    deployment.wait_until(is_notified, within_seconds=30.0)


def test_a_trace_of_the_launch_leaves_the_containers(
    deployment: Deployment, undisturbed: Undisturbed, collector: Collector
) -> None:
    del undisturbed
    deployment.wait_until(lambda: bool(collector.spans), within_seconds=30.0)


def test_files_belong_to_the_user_of_the_images(
    deployment: Deployment, undisturbed: Undisturbed
) -> None:
    del undisturbed
    for service, folder in (
        ("api", "/var/lib/resnetd/artifacts"),
        ("api", "/var/lib/resnetd/data"),
        ("ray-worker", "/var/lib/resnetd/work"),
    ):
        others = deployment.execute(service, "find", folder, "!", "-uid", "10001")
        assert others == ""


def test_containers_stop_by_sigterm_and_their_job_resumes(
    deployment: Deployment, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with deployment.client() as client:
        job_id = submit_and_wait_until_running(deployment, client)
        containers = {name: deployment.containers(name) for name in SERVICES}

        for service in ("dispatcher", "ray-worker", "ray-head", "api", "postgres"):
            started = time.monotonic()
            deployment.compose("stop", service)
            seconds = time.monotonic() - started
            codes = {
                deployment.inspect(container, "{{.State.ExitCode}}")
                for container in containers[service]
            }
            REPORT.append(f"{service} stops in {seconds:.1f} s with {' '.join(sorted(codes))}")
            # 137: killed by the engine after the grace period.
            assert "137" not in codes, (service, deployment.logs())

        REPORT.append(f"stopped services are up again after {deployment.up():.1f} s")
        undisturbed.check(client, wait_until_final(deployment, client, job_id), tmp_path)


@pytest.mark.parametrize("service", SERVICES)
def test_a_job_ends_right_after_a_container_was_killed(
    deployment: Deployment, undisturbed: Undisturbed, tmp_path: Path, service: str
) -> None:
    with deployment.client() as client:
        job_id = submit_and_wait_until_running(deployment, client)
        container = deployment.containers(service)[0]
        restarts = int(deployment.inspect(container, "{{.RestartCount}}"))

        deployment.kill(container)
        killed = time.monotonic()
        deployment.wait_until_healthy(container, restarts=restarts + 1)
        healthy_seconds = time.monotonic() - killed
        job = wait_until_final(deployment, client, job_id)

        undisturbed.check(client, job, tmp_path)
        REPORT.append(
            f"{service} killed: healthy after {healthy_seconds:.1f} s, the job ended after "
            f"{time.monotonic() - killed:.1f} s with {job.attempts} attempts"
        )


def test_a_backup_restores_what_was_lost(
    deployment: Deployment, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """The commands of docs/how-to/use-postgresql-and-back-up.md."""
    page = (deployment.path / "docs" / "how-to" / "use-postgresql-and-back-up.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    backup, restore = (
        next(block for block in blocks if f" resnetd-server {command} /backup" in block)
        for command in ("backup", "restore")
    )

    started = time.monotonic()
    deployment.execute_on_machine(backup)
    report("backup", started)
    deployment.compose("down", "--volumes")
    started = time.monotonic()
    start = "docker compose up --detach --wait\n"
    assert restore.endswith(start)
    deployment.execute_on_machine(restore.removesuffix(start))
    deployment.up()
    report("restore, with the start of all services", started)

    with deployment.client() as client:
        undisturbed.check(client, client.jobs.get(undisturbed.job.id), tmp_path)
        # The images too: the job runs again.
        undisturbed.check(
            client, wait_until_final(deployment, client, client.submit(JOB).id), tmp_path
        )

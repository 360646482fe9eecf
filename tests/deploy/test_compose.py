"""docker-compose.yml and deploy/Dockerfile: least privilege, valid settings, existing files."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.make_secrets import make_secrets
from service.settings import Settings
from tests.deploy.composed import REPOSITORY, compose_file, find_mounts, with_defaults

COMPOSE = compose_file()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LONG_RUNNING = sorted(name for name, service in SERVICES.items() if service["restart"] != "no")
BUILT = sorted(name for name, service in SERVICES.items() if "build" in service)
DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\w+)\n((?:(?!FROM ).*\n)*)", DOCKERFILE, re.MULTILINE))


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_a_long_running_service_has_a_health_check_and_a_grace_period(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert "stop_grace_period" in SERVICES[name]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_no_privileges(name: str) -> None:
    service = SERVICES[name]
    user = (
        service.get("user")
        or re.findall(r"^USER (\S+)$", STAGES[service["build"]["target"]], re.MULTILINE)[-1]
    )
    assert user.split(":")[0] not in ("root", "0")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & set(service)


def test_only_the_api_is_published_and_only_on_localhost() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["api"]
    assert [with_defaults(port) for port in published["api"]] == ["127.0.0.1:8000:8000"]


def test_ray_and_the_database_reach_neither_the_internet_nor_each_other() -> None:
    internal = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert internal == {"database", "cluster"}
    assert SERVICES["postgres"]["networks"] == ["database"]
    for name in ("ray-head", "ray-worker", "ray-worker-gpu"):
        assert SERVICES[name]["networks"] == ["cluster"]


@pytest.mark.parametrize(
    "name", [pytest.param("dispatcher", id="webhooks"), pytest.param("fetch", id="datasets")]
)
def test_a_service_that_calls_the_internet_reaches_it(name: str) -> None:
    networks = SERVICES[name]["networks"]
    assert [network for network in networks if not COMPOSE["networks"][network].get("internal")]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("api", {"/var/lib/resnetd/artifacts", "/var/lib/resnetd/data"}),
        ("dispatcher", set()),
        ("ray-worker", {"/var/lib/resnetd/data", "/var/lib/resnetd/work"}),
        ("fetch", {"/var/lib/resnetd/data"}),
    ],
)
def test_a_service_can_write_where_it_stores_files(name: str, written: set[str]) -> None:
    mounts = find_mounts(SERVICES[name])
    assert {mount.target for mount in mounts if mount.is_writable} == written


def test_the_file_contains_no_secret(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    defined = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
    assert defined == {path.name: f"deploy/secrets/{path.name}" for path in tmp_path.iterdir()}
    for service in SERVICES.values():
        assert set(service.get("secrets", ())) <= set(defined)
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET", variable):
                assert Path(value).parent == Path("/run/secrets")
                assert Path(value).name in service["secrets"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_resnetd_variable_is_a_setting(name: str) -> None:
    fields = {f"RESNETD_{field.upper()}" for field in Settings.model_fields}
    variables = SERVICES[name].get("environment", {})
    assert {variable for variable in variables if variable.startswith("RESNETD_")} <= fields


def test_secrets_are_named_like_the_settings_that_read_them() -> None:
    fields = {f"resnetd_{field}" for field in Settings.model_fields}
    read = {"resnetd_database_url", "resnetd_ray_token", "resnetd_smtp_url"}
    assert read <= fields & set(COMPOSE["secrets"])


def test_the_api_and_the_dispatcher_know_the_mail_server_and_see_the_datasets() -> None:
    for name in ("api", "dispatcher"):
        assert "resnetd_smtp_url" in SERVICES[name]["secrets"]
        assert "/var/lib/resnetd/data" in {mount.target for mount in find_mounts(SERVICES[name])}


@pytest.mark.parametrize("name", BUILT)
def test_images_of_this_repository_are_built_and_never_pulled(name: str) -> None:
    service = SERVICES[name]
    assert service["image"] == f"resnetd-{service['build']['target']}:local"
    assert service["pull_policy"] == "build"


def test_pulled_images_are_pinned() -> None:
    pulled = [service["image"] for service in SERVICES.values() if "build" not in service]
    pulled += re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert pulled
    for image in pulled:
        assert re.fullmatch(r"\w+:\d+\.\d+(\.\d+)?-[\w-]+", image), image


def test_files_that_the_images_copy_exist_and_are_not_ignored() -> None:
    copied = [
        path
        for paths in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for path in paths.split()
    ]
    copied += re.findall(r"type=bind,source=([^,]+)", DOCKERFILE)
    allowed = re.findall(r"^!(.+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(set(copied)) == sorted(allowed)
    assert [path for path in copied if not (REPOSITORY / path).exists()] == []


def test_a_gpu_node_differs_from_a_cpu_node_only_in_its_gpus() -> None:
    differing = ("scale", "profiles", "deploy")
    cpu_node, gpu_node = (
        {key: value for key, value in SERVICES[name].items() if key not in differing}
        for name in ("ray-worker", "ray-worker-gpu")
    )
    assert cpu_node == gpu_node


@pytest.mark.parametrize("profiles", ["", "gpu,fetch"])
def test_docker_compose_accepts_the_file(profiles: str) -> None:
    docker = shutil.which("docker")
    plugin = [docker, "compose"] if docker is not None else []
    if (
        not plugin
        or subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    completed = subprocess.run(
        [*plugin, "config", "--quiet"],
        cwd=REPOSITORY,
        env={**os.environ, "COMPOSE_PROFILES": profiles},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (completed.returncode, completed.stderr) == (0, "")


@pytest.mark.parametrize("name", ["server", "cluster"])
def test_images_have_the_package_versions_that_the_tests_use(name: str) -> None:
    pins = re.compile(r"^[\w.-]+==[^\s;]+", re.MULTILINE)
    folder = REPOSITORY / "requirements"
    tested = set(pins.findall((folder / "dev.txt").read_text()))
    assert set(pins.findall((folder / f"{name}.txt").read_text())) <= tested

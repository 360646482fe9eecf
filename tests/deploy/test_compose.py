"""docker-compose.yml and deploy/Dockerfile: closed doors, real settings, files that exist."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.make_secrets import make_secrets
from service.settings import Settings
from tests.deploy.composed import REPOSITORY, compose_file, with_defaults

COMPOSE = compose_file()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = sorted(name for name, service in SERVICES.items() if service["restart"] != "no")
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
DOCKERFILE = (REPOSITORY / "deploy" / "Dockerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\w+)\n((?:(?!FROM ).*\n)*)", DOCKERFILE, re.MULTILINE))


@pytest.mark.parametrize("name", LASTING)
def test_a_service_that_lasts_is_checked_and_stopped_with_patience(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert "stop_grace_period" in SERVICES[name]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_given_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    user = (
        service.get("user")
        or re.findall(r"^USER (\S+)$", STAGES[service["build"]["target"]], re.MULTILINE)[-1]
    )
    assert user.split(":")[0] not in ("root", "0")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & set(service)


def test_only_the_api_is_published_and_only_to_this_machine() -> None:
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert list(published) == ["api"]
    assert [with_defaults(port) for port in published["api"]] == ["127.0.0.1:8000:8000"]


def test_ray_and_the_database_have_no_way_out_and_no_way_to_each_other() -> None:
    internal = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert internal == {"database", "cluster"}
    assert SERVICES["postgres"]["networks"] == ["database"]
    for name in ("ray-head", "ray-worker", "ray-worker-gpu"):
        assert SERVICES[name]["networks"] == ["cluster"]


def test_no_secret_is_in_the_file(tmp_path: Path) -> None:
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
def test_variables_of_ours_are_settings(name: str) -> None:
    fields = {f"RESNETD_{field.upper()}" for field in Settings.model_fields}
    ours = {key for key in SERVICES[name].get("environment", {}) if key.startswith("RESNETD_")}
    assert ours <= fields


def test_secrets_that_are_settings_are_named_like_them() -> None:
    fields = {f"resnetd_{field}" for field in Settings.model_fields}
    assert {"resnetd_database_url", "resnetd_ray_token"} <= fields & set(COMPOSE["secrets"])


@pytest.mark.parametrize("name", OURS)
def test_our_images_are_built_and_never_pulled(name: str) -> None:
    service = SERVICES[name]
    assert service["image"] == f"resnetd-{service['build']['target']}:local"
    assert service["pull_policy"] == "build"


def test_images_of_others_are_pinned() -> None:
    others = [one["image"] for one in SERVICES.values() if "build" not in one]
    others += re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert others
    for image in others:
        assert re.fullmatch(r"\w+:\d+\.\d+(\.\d+)?-[\w-]+", image), image


def test_files_that_the_images_are_made_of_exist_and_reach_docker() -> None:
    copied = [
        word
        for words in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for word in words.split()
    ]
    copied += re.findall(r"type=bind,source=([^,]+)", DOCKERFILE)
    allowed = re.findall(r"^!(.+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(set(copied)) == sorted(allowed)
    assert [path for path in copied if not (REPOSITORY / path).exists()] == []


def test_a_node_with_gpus_differs_in_them_alone() -> None:
    differing = ("scale", "profiles", "deploy")
    plain, with_gpus = (
        {key: value for key, value in SERVICES[name].items() if key not in differing}
        for name in ("ray-worker", "ray-worker-gpu")
    )
    assert plain == with_gpus


@pytest.mark.parametrize("profiles", ["", "gpu,fetch"])
def test_docker_compose_reads_the_file(profiles: str) -> None:
    docker = shutil.which("docker")
    plugin = [docker, "compose"] if docker is not None else []
    if (
        not plugin
        or subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("Docker has no Compose here")
    read = subprocess.run(
        [*plugin, "config", "--quiet"],
        cwd=REPOSITORY,
        env={**os.environ, "COMPOSE_PROFILES": profiles},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize("name", ["server", "cluster"])
def test_images_hold_the_versions_that_the_tests_run_with(name: str) -> None:
    pins = re.compile(r"^[\w.-]+==[^\s;]+", re.MULTILINE)
    folder = REPOSITORY / "requirements"
    tested = set(pins.findall((folder / "dev.txt").read_text()))
    assert set(pins.findall((folder / f"{name}.txt").read_text())) <= tested

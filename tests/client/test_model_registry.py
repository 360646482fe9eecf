"""The model registry: the commands."""

import json
from pathlib import Path

import resnetd
from service.states import CheckpointPart
from tests.client.conftest import Command
from tests.client.service import Service
from tests.support.core import ENVIRONMENT, content

NAME = "resnet-8/course"


def _train(service: Service, iteration: int) -> str:
    training = service.run(user="admin")
    training.report(environment=ENVIRONMENT)
    training.save(iteration, test_error=iteration / 10)
    training.finish()
    return training.job_id


def test_a_network_is_registered_promoted_downloaded_and_rolled_back(
    command: Command, service: Service
) -> None:
    for iteration in (10, 20):
        job_id = _train(service, iteration)
        options = ("--alias", "production", "--note", f"iteration {iteration}")
        assert command("model", "register", NAME, job_id[:13], *options) == 0, command.err
    assert command.out == f"{NAME}@2\n"
    assert command("model", "promote", f"{NAME}@1", "production", "--note", "2 was worse") == 0
    assert command.out == f"{NAME}@production is version 1\n"
    assert command("model", "download", f"{NAME}@production") == 0
    saved = Path(command.out.strip())
    assert saved.name == "resnet-8-course-v1.safetensors"
    assert saved.read_bytes() == content(CheckpointPart.WEIGHTS, 10)
    assert command("model", "list") == 0
    assert command.out.splitlines()[1].split()[:4] == [NAME, "2", "production", "1"]
    assert command("model", "versions", NAME) == 0
    newest, first = (line.split() for line in command.out.splitlines()[1:])
    assert (newest[:3], first[:4]) == (["2", "2.00", "%"], ["1", "production", "1.00", "%"])
    assert command("model", "history", NAME) == 0
    assert "alias production, from 2, to 1, note 2 was worse" in command.out.splitlines()[-1]


def test_show_has_the_lineage(command: Command, service: Service) -> None:
    assert command("model", "register", NAME, _train(service, 20), "--alias", "staging") == 0
    assert command("model", "show", f"{NAME}@staging") == 0
    shown = {line.split()[0]: line for line in command.out.splitlines()}
    assert shown["commit"].endswith("c" * 40)
    assert shown["data"].endswith("d" * 64)
    assert shown["aliases"].endswith("staging")
    assert command("model", "show", NAME, "--output", "json") == 0
    assert json.loads(command.out)["lineage"]["network"] == "resnet-8-A"


def test_a_version_in_use_is_deleted_after_its_alias(command: Command, service: Service) -> None:
    assert command("model", "list") == 0
    assert command.err == "There are no models.\n"
    for iteration in (10, 20):
        assert command("model", "register", NAME, _train(service, iteration)) == 0
    assert command("model", "promote", f"{NAME}@1", "old") == 0
    assert command("model", "delete", f"{NAME}@1") != 0
    assert "version 1 of resnet-8/course is old; move or remove that alias first" in command.err
    assert command("model", "remove-alias", NAME, "old") == 0
    assert command("model", "delete", f"{NAME}@1") == 0
    assert command("model", "delete", NAME) == 0
    assert command("model", "show", NAME) != 0
    assert command.err == "no model 'resnet-8/course'\n"


def test_what_a_job_is_registered_as_is_named_where_it_cannot_be_deleted(
    command: Command, client: resnetd.Client, service: Service
) -> None:
    job_id = _train(service, 20)
    client.models.register(NAME, job_id)
    assert command("show", job_id) == 0
    assert command.out.splitlines()[-1].endswith(f"{NAME}@1")
    assert command("delete", job_id) != 0
    assert f"has the weights of {NAME}@1 in the model registry" in command.err


def test_a_version_whose_alias_is_refused_is_named(command: Command, service: Service) -> None:
    job_id = _train(service, 20)
    assert command("model", "register", NAME, job_id, "--alias", "Production") != 0
    assert command.err.startswith(f"Registered {NAME}@1, without the alias:\nalias: must be ")

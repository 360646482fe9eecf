"""Tools of `resnetd mcp`: experiments by the protocol's own client over the real API."""

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client, StdioServerParameters

import resnetd
from resnetd.mcp_server import Limits, make_server
from service.states import Reason, TokenScope
from tests.client import faults
from tests.client.conftest import QUICK, Command
from tests.client.service import Service
from tests.support.api import TOKEN

SPEC = {"depth": 8, "shortcut": "A", "dataset": "digits"}
PLAIN = SPEC | {"shortcut": "none"}
BUDGET = {"max_seconds": 60}

# What each tool does: reads, destroys, may be repeated.
HINTS = {
    "show_limits": (True, False, True),
    "list_choices": (True, False, True),
    "describe_fields": (True, False, True),
    "plan_job": (True, False, True),
    "list_jobs": (True, False, True),
    "follow_job": (True, False, True),
    "explain_job": (True, False, True),
    "compare_jobs": (True, False, True),
    "submit_job": (False, False, False),
    "download_weights": (False, False, True),
    "cancel_job": (False, True, True),
}


class Tools:
    """Calls tools as a program that serves a model does."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.progress: list[tuple[float, float | None, str | None]] = []

    async def __call__(self, name: str, **arguments: Any) -> dict[str, Any]:
        result = await self.client.call_tool(name, arguments, progress_callback=self._keep)
        assert not result.is_error, result.content
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    async def refuse(self, name: str, **arguments: Any) -> str:
        """The text of the error."""
        result = await self.client.call_tool(name, arguments)
        assert result.is_error
        (content,) = result.content
        assert content.type == "text"
        return content.text

    async def submit(self, **fields: Any) -> str:
        return str((await self("submit_job", spec=SPEC | fields, **BUDGET))["id"])

    async def _keep(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, total, message))


Experiment = Callable[[Tools], Awaitable[None]]
Drive = Callable[[Experiment], None]


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    return Limits(jobs=4, seconds=60.0, folder=tmp_path)


@asynccontextmanager
async def _connect(client: resnetd.Client, limits: Limits) -> AsyncIterator[Tools]:
    server = make_server(client, limits, poll_seconds=0.01)
    async with Client(server) as connected:
        yield Tools(connected)


@pytest.fixture
def drive(client: resnetd.Client, limits: Limits) -> Drive:
    """Runs an experiment over tools that use the admin's token."""

    async def run(experiment: Experiment) -> None:
        async with _connect(client, limits) as tools:
            await experiment(tools)

    return lambda experiment: anyio.run(run, experiment)


def test_an_experiment_from_plan_to_weights(service: Service, drive: Drive, tmp_path: Path) -> None:
    async def experiment(tools: Tools) -> None:
        plan = await tools("plan_job", spec=PLAIN, **BUDGET)
        assert plan["network"] == "plain-8"
        assert plan["parameters"] > 70_000
        ids = []
        for shortcut, seed in product(("none", "A"), (0, 1)):
            service.core.clock.advance(1.0)
            ids.append(await tools.submit(shortcut=shortcut, seed=seed))
        waiting = await tools("explain_job", job_id=ids[0])
        assert waiting["why"].startswith(f"waits ({waiting['waiting']['code']}): ")
        for _ in ids:
            training = service.run_next()
            training.log("training begins")
            training.progress(10, test_error=100 / 3)
            followed = await tools("follow_job", job_id=training.job_id, wait_seconds=0)
            assert followed["progress"]["metrics"] == {"test/error": 33.3333}
            assert not followed["is_over"]
            training.save(20, test_error=9.0)
            training.finish(test_error=9.0 if training.job_id in ids[:2] else 7.0)
        assert list(tools.progress[-1]) == [10, 20, "running"]
        ended = await tools("follow_job", job_id=ids[3])
        assert (ended["is_over"], ended["result"]["test_error"]) == (True, 7.0)

        compared = await tools("compare_jobs", job_ids=ids)
        assert [group["fields"]["shortcut"] for group in compared["groups"]] == ["A", "none"]
        assert [group["results"]["test_error"]["mean"] for group in compared["groups"]] == [7, 9]
        (difference,) = compared["differences"]
        assert (difference["mean"], difference["n"]) == (-2.0, 2)
        assert (difference["a"], difference["b"]) == ({"shortcut": "A"}, {"shortcut": "none"})
        best = await tools("list_jobs", state=["succeeded"], where=["result.test_error<8"])
        assert {job["id"] for job in best["jobs"]} == set(ids[2:])

        saved = await tools("download_weights", job_id=ids[3])
        assert saved["bytes"] > 0
        assert "'card'" in await tools.refuse("download_weights", job_id=ids[3], file_format="timm")

    drive(experiment)
    (weights,) = tmp_path.glob("*.safetensors")
    assert weights.name.startswith("resnet-8-A-")


def test_no_more_jobs_are_submitted_than_the_limit_permits(drive: Drive, service: Service) -> None:
    async def experiment(tools: Tools) -> None:
        await tools("submit_job", spec=SPEC, idempotency_key="first", **BUDGET)
        replayed = await tools("submit_job", spec=SPEC, idempotency_key="first", **BUDGET)
        assert replayed["jobs_left"] == 3
        assert "dataset" in await tools.refuse("submit_job", spec={"depth": 8}, **BUDGET)
        service.inject(*[faults.lose_response] * QUICK.attempts)
        assert "no response" in await tools.refuse("submit_job", spec=SPEC, **BUDGET)
        assert (await tools("show_limits"))["jobs_left"] == 2  # the lost one may exist
        async with anyio.create_task_group() as group:
            for seed in (1, 2):
                group.start_soon(partial(tools.submit, seed=seed))
        assert "--max-jobs" in await tools.refuse("submit_job", spec=SPEC, **BUDGET)
        assert len((await tools("list_jobs"))["jobs"]) == 4

    drive(experiment)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "max_seconds\n  Field required"),
        ({"max_seconds": 0}, "greater than 0"),
        ({"max_seconds": 61}, "at most 60, received 61"),
        (
            {"max_seconds": 60, "spec": SPEC | {"recipe": {"max_seconds": 900}}},
            "object without max_seconds",
        ),
        ({"max_seconds": 60, "spec": SPEC | {"recipe": ["quick"]}}, "recipe must be a name"),
        ({"max_seconds": 60, "spec": SPEC | {"depth": 33}}, "depth: "),
        ({"max_seconds": 60, "idempotency_key": "a\nb"}, "printable ASCII"),
    ],
)
def test_a_submission_is_refused_in_words(
    drive: Drive, client: resnetd.Client, arguments: dict[str, Any], text: str
) -> None:
    async def experiment(tools: Tools) -> None:
        assert text in await tools.refuse("submit_job", **{"spec": SPEC} | arguments)

    drive(experiment)
    assert list(client.jobs.list()) == []


def test_the_budget_is_part_of_the_recipe(drive: Drive, client: resnetd.Client) -> None:
    async def experiment(tools: Tools) -> None:
        job_id = await tools.submit(recipe="quick")
        recipe = client.jobs.get(job_id).spec["recipe"]
        assert (recipe["name"], recipe["max_seconds"]) == ("quick", 60)

    drive(experiment)


def test_a_failure_is_explained_with_its_attempts_and_the_end_of_its_log(
    service: Service, drive: Drive
) -> None:
    async def experiment(tools: Tools) -> None:
        training = service.run()
        training.log(*(f"step {number}" for number in range(50)), "loss is not finite")
        training.finish(Reason.DIVERGED, message="x" * 3_000 + "the loss is nan at step 50")
        explained = await tools("explain_job", job_id=training.job_id, log_lines=2)
        assert explained["why"].startswith("failed (diverged): ...")
        assert explained["why"].endswith("the loss is nan at step 50")
        assert len(explained["why"]) < 2_100
        assert explained["log"] == ["info: step 49", "info: loss is not finite"]
        (attempt,) = explained["last_attempts"]
        assert (attempt["reason"], attempt["blame"]) == ("diverged", "user")

        held = await tools("explain_job", job_id=service.hold())
        assert held["why"].startswith("held by the service")
        assert held["is_over"]

    drive(experiment)


def test_following_ends_when_the_state_changes(service: Service, drive: Drive) -> None:
    def start_after_response(request: httpx.Request, send: faults.Send) -> httpx.Response:
        response = send(request)
        response.read()
        service.run_next()
        return response

    async def experiment(tools: Tools) -> None:
        job_id = await tools.submit()
        service.inject(start_after_response)
        followed = await tools("follow_job", job_id=job_id, wait_seconds=60)
        assert followed["state"] == "running"

    drive(experiment)


def test_a_job_is_cancelled_and_one_that_does_not_exist_is_refused(drive: Drive) -> None:
    async def experiment(tools: Tools) -> None:
        cancelled = await tools("cancel_job", job_id=await tools.submit())
        assert (cancelled["state"], cancelled["is_over"]) == ("cancelled", True)
        assert (await tools("explain_job", job_id=cancelled["id"]))["why"] == "cancelled"
        for name in ("cancel_job", "explain_job", "follow_job", "download_weights"):
            assert "0zzz" in await tools.refuse(name, job_id="0zzz")
        assert "no trainings: 0zzz" in await tools.refuse(
            "compare_jobs", job_ids=["0zzz", cancelled["id"]]
        )

    drive(experiment)


def test_a_token_of_a_tag_submits_with_it_and_reaches_no_other_job(
    service: Service, limits: Limits
) -> None:
    async def experiment() -> None:
        other = service.submit()
        secret = service.api.add_person("ann", scope=TokenScope.FULL, tag="tools")
        with resnetd.Client(service.url, secret, transport=service.transport) as client:
            async with _connect(client, limits) as tools:
                shown = await tools("show_limits")
                assert (shown["session"]["user"], shown["session"]["tag"]) == ("ann", "tools")
                assert shown["largest_max_seconds"] == 60
                job = await tools("submit_job", spec=SPEC | {"tags": ["a"]}, **BUDGET)
                assert client.jobs.get(job["id"]).spec["tags"] == ["a", "tools"]
                await tools.refuse("cancel_job", job_id=other)
        assert service.api.get(f"/v1/jobs/{other}").json()["state"] == "queued"

    anyio.run(experiment)


def test_choices_and_fields_are_described(drive: Drive) -> None:
    async def experiment(tools: Tools) -> None:
        choices = await tools("list_choices")
        assert {"name": "digits", "classes": 10}.items() <= choices["datasets"][0].items()
        assert "quick" in choices["recipes"]
        assert {"job", "recipe"} < (await tools("describe_fields")).keys()
        described = await tools("describe_fields", topic="recipe.max_seconds")
        assert described["recipe"][0]["text"].startswith("The training ends after")
        assert "max_seconds" in await tools.refuse("describe_fields", topic="max_second")

    drive(experiment)


def test_each_tool_hints_what_it_does(drive: Drive) -> None:
    async def experiment(tools: Tools) -> None:
        hints = {}
        for tool in (await tools.client.list_tools()).tools:
            found = tool.annotations
            assert found is not None
            assert found.open_world_hint is False
            hints[tool.name] = (
                found.read_only_hint,
                found.destructive_hint,
                found.idempotent_hint,
            )
            assert tool.title
            assert tool.description
            assert "  " not in tool.description
        assert hints == HINTS

    drive(experiment)


def test_tools_that_only_read_send_nothing_that_changes(service: Service, drive: Drive) -> None:
    async def experiment(tools: Tools) -> None:
        ids = [service.submit(), service.submit(seed=1)]
        arguments: dict[str, dict[str, Any]] = {
            "plan_job": {"spec": SPEC, **BUDGET},
            "follow_job": {"job_id": ids[0], "wait_seconds": 0},
            "explain_job": {"job_id": ids[0]},
            "compare_jobs": {"job_ids": ids},
        }
        service.transport.requests.clear()
        for name, (is_read_only, *_) in HINTS.items():
            if is_read_only:
                await tools(name, **arguments.get(name, {}))
        sent = {
            (request.method, request.url.path)
            for request in service.transport.requests
            if request.method != "GET"
        }
        assert sent == {("POST", "/v1/jobs:plan")}

    drive(experiment)


def test_without_a_folder_nothing_is_downloaded(client: resnetd.Client) -> None:
    async def experiment() -> None:
        async with _connect(client, Limits(jobs=1, seconds=60.0)) as tools:
            names = {tool.name for tool in (await tools.client.list_tools()).tools}
        assert names == HINTS.keys() - {"download_weights"}

    anyio.run(experiment)


def test_the_command_serves_over_standard_input_and_output(
    service: Service, tmp_path: Path
) -> None:
    arguments = ["-m", "resnetd", "--url", service.url, "mcp", "--max-jobs", "1"]
    parameters = StdioServerParameters(
        command=sys.executable,
        args=[*arguments, "--folder", str(tmp_path)],
        env={**os.environ, "RESNETD_TOKEN": TOKEN},
    )

    async def experiment() -> None:
        async with Client(parameters) as connected:
            tools = Tools(connected)
            assert connected.instructions
            assert await tools.submit()
            assert "is reached: 1;" in await tools.refuse("submit_job", spec=SPEC, **BUDGET)

    anyio.run(experiment)


def test_without_the_extra_the_command_says_how_to_install_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnetd.cli.mcp_command.find_spec", lambda _: None)
    assert command("mcp") == 2
    assert command.err == (
        "`resnetd mcp` needs the package mcp, which is not installed: pip install 'resnetd[mcp]'\n"
    )
    assert find_spec("mcp") is not None


def test_a_folder_that_does_not_exist_is_refused(command: Command) -> None:
    assert command("mcp", "--folder", "nowhere") == 2
    assert "nowhere" in command.err


def test_schemas_of_arguments_name_what_is_required(drive: Drive) -> None:
    async def experiment(tools: Tools) -> None:
        schemas = {tool.name: tool.input_schema for tool in (await tools.client.list_tools()).tools}
        assert schemas["submit_job"]["required"] == ["spec", "max_seconds"]
        assert "context" not in json.dumps(schemas["follow_job"])
        assert all(
            "description" in field or "default" in field
            for schema in schemas.values()
            for field in schema.get("properties", {}).values()
        )

    drive(experiment)

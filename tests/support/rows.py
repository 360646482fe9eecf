"""Rows of every kind in an API's database, for requests to any of its routes."""

import io
import zipfile
from http import HTTPStatus
from typing import Any

from PIL import Image

from service.states import AlertCondition, CheckpointPart, Role, TokenScope
from tests.support.alerts import add_alert
from tests.support.api import TOKEN, Api
from tests.support.core import content, job_id_of, note, written
from tests.support.searching import TINY, Searching

# Of the processes of the cluster, whose tokens are their own.
MACHINES = ("/v1/attempts/", "/v1/runners/", "/v1/drivers/")
TUNE_ID = "1f3a7_00000"  # of the examples in the OpenAPI document


class Rows:
    """A finished job of ann with a checkpoint, a running attempt that starts from it, a search with
    a driver and a trial, a runner, a comparison, a webhook with a delivery, an alert, links, and a
    model.

    `in_path`: a value for each parameter of a path. `job_link`, `comparison_link`: tokens that
    show the finished job, and the comparison.
    """

    def __init__(self, api: Api) -> None:
        core = api.core
        searching = Searching(core)
        finished = core.start()
        api.checkpoint(finished, 1, note(20, test_error=5.0))
        core.finish(finished.attempt_id)
        core.release(finished)
        job_id = job_id_of(finished)
        attempt = core.start(start_from={"job": job_id, "mode": "weights"})
        runner = core.start_warm_runner()
        search_id = searching.submit(budget={"trials": 10})
        (driver,) = searching.start_drivers()
        searching.begin_driver(search_id)
        searching.assign_trial(search_id, TUNE_ID)
        webhook_id = api.post("/v1/webhooks", {"url": "https://example.org/hook"}).json()["id"]
        api.post(f"/v1/webhooks/{webhook_id}/ping")
        alert_id = add_alert(core, AlertCondition.FAILED, user="admin")
        core.add_person("ann")
        # Of another depth than the trial, which they would reuse.
        specs = {
            side: written(depth=14, shortcut=shortcut, recipe=TINY)
            for side, shortcut in (("a", "A"), ("b", "none"))
        }
        comparison_id = api.post("/v1/comparisons", specs | {"seeds": 1}).json()["id"]
        job_link = api.post("/v1/shares", {"jobs": [job_id]}).json()
        self.job_link: str = job_link["secret"]
        comparison_link = api.post("/v1/shares", {"study": comparison_id}).json()
        self.comparison_link: str = comparison_link["secret"]
        self.member = core.add_person("mike")
        self.tag_token = core.add_person("mike", tag="nightly")
        # Of each role and scope; the token of the admin has all.
        self.limited_tokens = [
            self.job_link,
            core.add_person("vera", Role.VIEWER),
            self.member,
            core.add_person("mike", scope=TokenScope.SUBMIT),
            core.add_person("mike", scope=TokenScope.READ),
            self.tag_token,
        ]
        core.set_quota("user:ann", jobs=1000)
        token_id = api.get("/v1/tokens?user=ann").json()["tokens"][0]["id"]
        registered = {"name": "resnet-56/course", "job": job_id}
        model_id = api.post("/v1/models", registered).json()["model_id"]
        alias = f"/v1/models/{model_id}/aliases/production"
        assert api.call("PUT", alias, json={"version": 1}).status_code == HTTPStatus.OK
        self._secrets = {
            "attempt_id": attempt.secret,
            "runner_id": runner.secret,
            "driver_id": driver.secret,
        }
        self.in_path: dict[str, Any] = {
            "job_id": job_id,
            "checkpoint": "newest",
            "attempt_id": attempt.attempt_id,
            "iteration": 20,
            "part": CheckpointPart.WEIGHTS.value,
            "runner_id": runner.id,
            "search_id": search_id,
            "driver_id": driver.id,
            "study_id": comparison_id,
            "comparison_id": comparison_id,
            "webhook_id": webhook_id,
            "alert_id": alert_id,
            "token_id": token_id,
            "share_id": job_link["id"],
            "model_id": model_id,
            "version": 1,
            "alias": "production",
            "name": "ann",
            "key": "user:ann",
            "dataset": "folder:unknown",
        }

    def find_token(self, path: str) -> str:
        """The token of those who may call the route; `path` with the names of its parameters."""
        found = (secret for name, secret in self._secrets.items() if f"{{{name}}}" in path)
        return next(found, TOKEN)

    def fill(self, path: str) -> str:
        """The path with these rows."""
        for name, value in self.in_path.items():
            path = path.replace(f"{{{name}}}", str(value))
        return path


def upload_for(path: str) -> bytes:
    """The body of a route that takes bytes."""
    if path != "/v1/datasets":
        return content(CheckpointPart.WEIGHTS, 20)
    image, archive = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(image, "PNG")
    with zipfile.ZipFile(archive, "w") as writer:
        for kind in ("train", "test"):
            for label in ("crow", "wren"):
                writer.writestr(f"{kind}/{label}/a.png", image.getvalue())
    return archive.getvalue()

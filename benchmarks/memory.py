"""`make bench-memory`: resident memory of the API over 100,000 mixed requests, uploads included.

One API process, as in production. Clients send requests of all kinds at once: submissions, plans
and invalid specs, lists with random conditions, figures and exports, reports and checkpoints of
running attempts, archives of images, and every GET route with known and with random parameters.
The number of rows stays about the same: what a client submits it deletes again. Memory that grows
with the number of requests is a leak; the last column is the growth since the first half.
"""

import argparse
import hashlib
import io
import itertools
import os
import random
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
from PIL import Image

from benchmarks.api_process import running_api
from benchmarks.results_table import Result, write_results
from service.settings import Settings
from service.states import CheckpointPart
from service.storage import schema
from service.storage.database import Database
from tests.support.api import TOKEN, Api
from tests.support.contract import DOCUMENT
from tests.support.core import Clock, Core, Taken, note
from tests.support.postgres import postgres_server
from tests.support.predictions import finish_with_predictions
from tests.support.rows import Rows
from tests.support.searching import search_body

REQUESTS = 100_000
STEP = 10_000
CLIENTS = 6
ATTEMPTS = 4
_CHECKPOINT_BYTES = 2**20
# Of a client; the oldest is deleted for each new one.
_MAX_JOBS = 20
_IMAGES_PER_CLASS = 20

Request = tuple[str, str, dict[str, Any]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-memory", description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--step", type=int, default=STEP, help="requests between two rows")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--only", action="append", help="send this kind only; repeatable")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="rb") as temporary,
        _new_database(options.database, Path(temporary)) as url,
    ):
        sizes = _measure(
            url, Path(temporary), options.requests, options.step, set(options.only or ())
        )
    name = f"memory of the API after {{:,}} requests, {options.database}"
    # Results of a part must not replace those of all.
    is_complete = options.requests == REQUESTS and not options.only
    write_results(
        "memory" if is_complete else "memory-part",
        [Result(name.format(sent), "MiB", size) for sent, size in sizes],
    )
    return 0


@contextmanager
def _new_database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'bench.db'}"
        return
    with postgres_server() as server:
        yield server.new_database()


def _measure(
    url: str, folder: Path, requests: int, step: int, only: set[str]
) -> list[tuple[int, float]]:
    """Resident MiB by number of requests."""
    clock = Clock()
    clock.now = datetime.now(UTC)
    with closing(Database(url)) as database:
        schema.upgrade(database)
        with running_api(url, folder / "api", token=TOKEN) as process:
            api = Api(process.url, Settings(var_dir=folder / "api"), Core(database, clock))
            subjects = _Subjects.create(api)
            api.http.close()
            process_memory = psutil.Process(process.pid)
            sizes = [(0, _resident_mib(process_memory))]
            print(f"{'requests':>10} {'MiB':>8} {'requests/s':>11}  statuses", flush=True)
            with ThreadPoolExecutor(CLIENTS) as pool:
                clients = [_Client(process.url, subjects, seed, only) for seed in range(CLIENTS)]
                for sent in range(step, requests + 1, step):
                    started = time.monotonic()
                    share = -(-step // CLIENTS)
                    for done in [pool.submit(client.send, share) for client in clients]:
                        done.result()
                    rate = step / (time.monotonic() - started)
                    sizes.append((sent, _resident_mib(process_memory)))
                    statuses: Counter[int] = Counter()
                    for client in clients:
                        statuses += client.statuses
                        client.statuses.clear()
                    shown = ", ".join(f"{code}: {n}" for code, n in sorted(statuses.items()))
                    print(f"{sent:>10,} {sizes[-1][1]:>8.1f} {rate:>11.0f}  {shown}", flush=True)
                for client in clients:
                    client.close()
    print(f"load average of the machine: {os.getloadavg()[0]:.1f}")
    return sizes


def _resident_mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


@dataclass
class _Attempt:
    taken: Taken
    sequence: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Subjects:
    """Rows that requests are about. `finished`: jobs with predictions."""

    in_path: dict[str, Any]
    tokens: dict[str, str]
    finished: list[str]
    attempts: list[_Attempt]
    archives: list[bytes]

    @classmethod
    def create(cls, api: Api) -> "_Subjects":
        rows = Rows(api)
        finished = [
            finish_with_predictions(api, api.core.run(seed=seed), [seed % 10] * 360)
            for seed in range(4)
        ]
        attempts = [_Attempt(api.core.start(seed=100 + number)) for number in range(ATTEMPTS)]
        tokens = {path: rows.find_token(path) for path in DOCUMENT["paths"]}
        return cls(rows.in_path, tokens, finished, attempts, _make_archives())


def _make_archives() -> list[bytes]:
    """A dataset, the same with a broken image, and bytes that are no archive."""
    names = [
        f"{split}/{label}/{number}.png"
        for split in ("train", "test")
        for label in ("crow", "wren")
        for number in range(_IMAGES_PER_CLASS)
    ]
    archives = []
    for broken in (None, names[-1]):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for number, name in enumerate(names):
                image = io.BytesIO()
                Image.effect_noise((96, 96), number).convert("RGB").save(image, "PNG")
                archive.writestr(name, b"x" if name == broken else image.getvalue())
        archives.append(packed.getvalue())
    return [*archives, os.urandom(2**20)]


class _Client:
    """Sends requests one after the other, each of a random kind, from its own seed."""

    def __init__(self, url: str, subjects: _Subjects, seed: int, only: set[str]) -> None:
        self.statuses: Counter[int] = Counter()
        self._http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        self._subjects, self._seed = subjects, seed
        self._random = random.Random(seed)  # noqa: S311 - a load, no secret
        self._number = itertools.count()
        self._jobs: list[str] = []
        kinds: dict[str, tuple[int, Callable[[], int]]] = {
            "submit": (15, self._submit),
            "plan": (10, self._plan),
            "invalid": (10, self._send_invalid),
            "list": (15, self._list_jobs),
            "get": (30, self._get_any),
            "search": (2, self._submit_search),
            "report": (12, self._report),
            "checkpoint": (3, self._upload_checkpoint),
            "dataset": (2, self._upload_dataset),
            "stream": (1, self._open_stream),
        }
        self._kinds = {name: kind for name, kind in kinds.items() if not only or name in only}

    def send(self, requests: int) -> None:
        """At least this number; some kinds are several requests."""
        weights = [weight for weight, _ in self._kinds.values()]
        calls = [call for _, call in self._kinds.values()]
        sent = 0
        while sent < requests:
            (call,) = self._random.choices(calls, weights)
            sent += call()

    def close(self) -> None:
        self._http.close()

    def _call(
        self, method: str, path: str, *, token: str = TOKEN, **request: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} | request.pop("headers", {})
        response = self._http.request(method, path, headers=headers, **request)
        self.statuses[response.status_code] += 1
        return response

    def _spec(self) -> dict[str, Any]:
        draw = self._random
        return {
            "depth": draw.choice([8, 14, 20, 32, 44, 56, 110]),
            "shortcut": draw.choice(["A", "B", "C", "none"]),
            "dataset": draw.choice(["digits", "fake"]),
            "seed": draw.randrange(10**9),
            "recipe": {"name": "quick", "iterations": draw.randrange(10, 10_000)},
            "tags": [f"t{draw.randrange(1_000)}"],
        }

    def _submit(self) -> int:
        """Submits jobs or clones one, reads them, and deletes as many."""
        draw, requests = self._random, 1
        kind = draw.randrange(3)
        if kind == 0 and self._jobs:
            path = f"/v1/jobs/{draw.choice(self._jobs)}/clone"
            response = self._call("POST", path, json={"seed": draw.randrange(10**9)})
        elif kind == 1:
            body = {"jobs": [self._spec() for _ in range(draw.randrange(1, 6))]}
            response = self._call("POST", "/v1/jobs:batch", json=body)
        else:
            headers = {"Idempotency-Key": f"{self._seed}-{next(self._number)}"}
            response = self._call("POST", "/v1/jobs", json=self._spec(), headers=headers)
        created = response.json()
        self._jobs += [job["id"] for job in created.get("jobs", [created])]
        while len(self._jobs) > _MAX_JOBS:
            job_id = self._jobs.pop(0)
            self._call("POST", f"/v1/jobs/{job_id}/kill")
            self._call("DELETE", f"/v1/jobs/{job_id}")
            requests += 2
        return requests

    def _plan(self) -> int:
        self._call("POST", "/v1/jobs:plan", json=self._spec())
        return 1

    def _send_invalid(self) -> int:
        """Wrong values, unknown fields, text that is no JSON, unknown paths, no token."""
        draw = self._random
        word = "".join(draw.choices("abcdef\u00fc/~. ", k=draw.randrange(1, 200)))
        kind = draw.randrange(5)
        if kind == 0:
            spec = self._spec() | {draw.choice([*self._spec(), word]): word}
            self._call("POST", "/v1/jobs", json=spec)
        elif kind == 1:
            content = os.urandom(draw.choice([10, 1_000, 100_000]))
            headers = {"Content-Type": "application/json"}
            self._call("POST", "/v1/jobs", content=content, headers=headers)
        elif kind == 2:  # noqa: PLR2004 - of the five
            self._call(draw.choice(["GET", "PUT", "DELETE"]), f"/v1/{quote(word)}")
        elif kind == 3:  # noqa: PLR2004
            self._call("GET", "/v1/jobs", token=word.encode().hex())
        else:
            self._call("GET", "/v1/jobs", params={"where": f"{word}:1", "fields": word})
        return 1

    def _list_jobs(self) -> int:
        draw = self._random
        fields = ["depth", "recipe.batch_size", "recipe.learning_rate", "result.test_error"]
        params = {
            "where": f"{draw.choice(fields)}{draw.choice([':', '!=', '<', '>='])}{draw.random():g}",
            "sort": draw.choice([*fields, "-created_at", f"metrics.m{draw.randrange(10**6)}"]),
            "limit": draw.randrange(1, 100),
        }
        if draw.random() < 0.3:  # noqa: PLR2004
            params["text"] = f"cosine {draw.randrange(10**6)}"
        if draw.random() < 0.3:  # noqa: PLR2004
            params["fields"] = "id,name,result.test_error,spec.recipe.batch_size"
        self._call("GET", "/v1/jobs", params=params)
        return 1

    def _get_any(self) -> int:
        """Any GET route, with known ids or random ones, and random values of its parameters."""
        draw = self._random
        path = draw.choice([path for path, found in DOCUMENT["paths"].items() if "get" in found])
        if path == "/v1/stream":
            return 0
        known = self._subjects.in_path | {"job_id": draw.choice(self._subjects.finished)}
        target = path
        for name in known:
            value = known[name] if draw.random() < 0.9 else f"{draw.randrange(10**9)}"  # noqa: PLR2004
            target = target.replace(f"{{{name}}}", quote(str(value), safe=""))
        params = {}
        for parameter in DOCUMENT["paths"][path]["get"].get("parameters", ()):
            if parameter["in"] == "query" and draw.random() < 0.4:  # noqa: PLR2004
                params[parameter["name"]] = self._value_of(parameter)
        self._call("GET", target, token=self._subjects.tokens[path], params=params)
        return 1

    def _value_of(self, parameter: dict[str, Any]) -> Any:
        draw = self._random
        usual = {
            "job": self._subjects.finished,
            "series": ["train/loss", "test/error"],
            "by": ["-seed", "depth", "id"],
            "where": ["depth:8"],
            "sort": ["-created_at"],
            "fields": ["id,name"],
        }
        if parameter["name"] in usual:
            return draw.choice(usual[parameter["name"]])
        found = parameter["schema"]
        for option in found.get("anyOf", [found]):
            if "enum" in option:
                return draw.choice(option["enum"])
            name = option.get("$ref", "").rsplit("/", 1)[-1]
            if name:
                return draw.choice(DOCUMENT["components"]["schemas"][name].get("enum", ["x"]))
            if option.get("type") == "integer":
                return draw.randrange(0, 1_000)
        return f"{draw.randrange(10**6)}"

    def _submit_search(self) -> int:
        search = self._call("POST", "/v1/searches", json=search_body()).json()
        path = f"/v1/searches/{search['id']}"
        self._call("GET", f"{path}/trials")
        self._call("POST", f"{path}/cancel")
        self._call("DELETE", path)
        return 4

    def _report(self) -> int:
        draw = self._random
        attempt = draw.choice(self._subjects.attempts)
        with attempt.lock:
            number = attempt.sequence = attempt.sequence + 1
            at = datetime.now(UTC).isoformat()
            body = {
                "sequence": number,
                "progress": {"iteration": number, "iterations": 10**7, "images_per_second": 1.0},
                "metrics": [
                    {"series": name, "iteration": number, "value": 0.5, "seconds": 1.0, "at": at}
                    for name in ("train/loss", "train/error", "test/error")
                ],
                "logs": [{"at": at, "level": "info", "message": f"line {number}"}],
            }
            path = f"/v1/attempts/{attempt.taken.attempt_id}/reports"
            self._call("POST", path, json=body, token=attempt.taken.secret)
        return 1

    def _upload_checkpoint(self) -> int:
        """Both parts and the report that names them; retention deletes earlier ones."""
        attempt = self._random.choice(self._subjects.attempts)
        with attempt.lock:
            number = attempt.sequence = attempt.sequence + 1
            manifest = note(number).model_dump(mode="json")
            base = f"/v1/attempts/{attempt.taken.attempt_id}"
            for part in manifest["parts"]:
                content = os.urandom(_CHECKPOINT_BYTES)
                part["sha256"] = hashlib.sha256(content).hexdigest()
                part["size_bytes"] = len(content)
                self._call(
                    "PUT",
                    f"{base}/checkpoints/{number}/{CheckpointPart(part['part'])}",
                    content=content,
                    headers={"X-Content-SHA256": part["sha256"]},
                    token=attempt.taken.secret,
                )
            body = {"sequence": number, "checkpoints": [manifest]}
            self._call("POST", f"{base}/reports", json=body, token=attempt.taken.secret)
        return 3

    def _upload_dataset(self) -> int:
        """Under few names: most are conflicts after the archive has been received."""
        draw = self._random
        name = f"birds{draw.randrange(20)}"
        content = draw.choice(self._subjects.archives)
        self._call("POST", f"/v1/datasets?name={name}", content=content)
        return 1

    def _open_stream(self) -> int:
        """Leaves an event stream after its first bytes."""
        attempt = self._random.choice(self._subjects.attempts)
        job_id = attempt.taken.attempt_id.partition("-a")[0]
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
        with self._http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
            self.statuses[response.status_code] += 1
            next(response.iter_bytes())
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""What is counted as stored is what is stored, whatever came before."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from service.access import people, storage_use
from service.catalog import uploads
from service.jobs import checkpoints, retention
from service.states import CheckpointPart
from tests.service.catalog.test_uploads import SPLIT, zipped
from tests.support.core import Core, Taken, job_id_of, note

USERS = ("ann", "ben")
KEYS = ("user:ann", "user:ben", "group:staff", "tag:x", "tag:y")
PARTS = (CheckpointPart.WEIGHTS, CheckpointPart.STATE)


class Stored:
    """The service, and beside it the sizes of all artifacts and images by owner and tag."""

    def __init__(self, core: Core, tmp_path: Path) -> None:
        self.core = core
        core.data_dir = tmp_path / "data"
        core.data_dir.mkdir()
        self.archive = zipped(tmp_path / "birds.zip", SPLIT)
        self.artifacts: dict[str, tuple[str, str, int]] = {}
        self.datasets: dict[str, str] = {}
        self.jobs: list[tuple[Taken, str, str, bool]] = []
        self.sequences: dict[str, int] = defaultdict(int)
        self.count = 0
        core.record_cluster(cpus=10_000)
        for user in USERS:
            core.add_person(user)
        with core.database.transaction() as session:
            people.set_group(session, "ann", "staff")

    def train(self, user: str, tag: str, keep: int) -> None:
        rule: dict[str, Any] = {"keep_newest": keep, "keep_best": 0}
        taken = self.core.run(user=user, tags=[tag], retention=rule)
        self.sequences[taken.attempt_id] = 1
        self.jobs.append((taken, user, tag, False))

    def store(self, at: int) -> None:
        open_jobs = [job for job in self.jobs if not job[3]]
        if not open_jobs:
            return
        taken, user, tag, _ = open_jobs[at % len(open_jobs)]
        self.count += 1
        self.sequences[taken.attempt_id] += 1
        manifest = note(self.count, parts=PARTS)
        for file in checkpoints.files_of_manifest(taken.attempt_id, manifest).values():
            self.artifacts[file.key] = (user, tag, file.size_bytes)
        sequence = self.sequences[taken.attempt_id]
        applied = self.core.apply(taken.attempt_id, sequence, checkpoints=[manifest])
        for key in applied.obsolete_keys:
            del self.artifacts[key]

    def end_and_delete(self, at: int) -> None:
        if not self.jobs:
            return
        job = self.jobs.pop(at % len(self.jobs))
        self.core.finish(job[0].attempt_id)
        self.core.release(job[0])
        with self.core.database.transaction() as session:
            (attempt_id,) = retention.delete_job(session, job_id_of(job[0]))
        self.artifacts = {
            key: entry
            for key, entry in self.artifacts.items()
            if checkpoints.attempt_id_of_key(key) != attempt_id
        }

    def upload(self, user: str, number: int) -> None:
        name = f"birds{number}"
        if name not in self.datasets:
            uploads.register_dataset(
                name,
                self.archive,
                user=user,
                sha256="a" * 64,
                data_dir=self.core.data_dir,
                max_bytes=2**20,
            )
            self.datasets[name] = user

    def remove_dataset(self, number: int) -> None:
        if self.datasets.pop(f"birds{number}", None) is not None:
            uploads.remove_dataset(f"folder:birds{number}", self.core.data_dir)

    def sum(self, key: str) -> int:
        kind, _, name = key.partition(":")
        name = "ann" if kind == "group" else name
        at = 1 if kind == "tag" else 0
        images = sum(len(image) for image in SPLIT.values())
        uploaded = 0 if kind == "tag" else [*self.datasets.values()].count(name) * images
        return uploaded + sum(entry[2] for entry in self.artifacts.values() if entry[at] == name)


_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("train"), st.sampled_from(USERS), st.sampled_from("xy"), st.integers(1, 2)
        ),
        st.tuples(st.just("store"), st.integers(0, 9)),
        st.tuples(st.just("store"), st.integers(0, 9)),
        st.tuples(st.just("end_and_delete"), st.integers(0, 9)),
        st.tuples(st.just("upload"), st.sampled_from(USERS), st.integers(0, 2)),
        st.tuples(st.just("remove_dataset"), st.integers(0, 2)),
    ),
    min_size=8,
    max_size=12,
)


def test_the_count_is_the_sum_of_what_is_stored(core: Core, tmp_path: Path) -> None:
    stored = Stored(core, tmp_path)
    seen: set[bool] = set()

    @settings(
        max_examples=3,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operations=_OPERATIONS)
    def check(operations: list[tuple[Any, ...]]) -> None:
        nonlocal seen
        for name, *arguments in operations:
            getattr(stored, name)(*arguments)
            with core.database.reading() as session:
                counted = storage_use.count_bytes(session, KEYS, core.data_dir)
            assert counted == {key: stored.sum(key) for key in KEYS}, name
            seen |= {size > 0 for size in counted.values()}

    check()
    assert seen == {True, False}

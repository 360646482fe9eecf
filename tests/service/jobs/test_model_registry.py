"""The model registry: numbered versions, aliases that move, and what a name keeps."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.orm import Session

from service.access.policy import Principal
from service.errors import Conflict, Forbidden, InvalidInput, NotFound, ResnetdError
from service.jobs import checkpoints, model_registry, model_versions, retention
from service.jobs.model_versions import ModelVersion
from service.states import ActorKind, Reason, Role, TokenScope
from service.storage import events
from service.storage.actors import Actor
from service.storage.tables import CheckpointRow
from tests.support.core import ENVIRONMENT, Core, Taken, job_id_of, note, written
from tests.support.searching import Searching

NAME = "resnet-8/course"


def _principal(user: str, role: Role = Role.MEMBER) -> Principal:
    return Principal(
        user=user,
        role=role,
        group=None,
        scope=TokenScope.FULL,
        tag=None,
        token_id="",
        expires_at=None,
    )


class _Registry:
    """Calls of the registry, each in a transaction of its own."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def _call(self, function: Any, *arguments: Any, user: str = "ann", **named: Any) -> Any:
        with self.core.database.transaction(actor=Actor(ActorKind.PERSON, user)) as session:
            return function(session, *arguments, **named)

    def register(
        self, job_id: str, checkpoint: str = "newest", *, name: str = NAME, user: str = "ann"
    ) -> ModelVersion:
        version: ModelVersion = self._call(
            model_registry.register,
            _principal(user),
            name=name,
            job_id=job_id,
            checkpoint=checkpoint,
            note="from a test",
            now=self.core.clock.now,
            user=user,
        )
        return version

    def promote(self, version: ModelVersion | None, to: int, alias: str = "production") -> None:
        model_id = "0" * 16 if version is None else version.model.id
        self._call(
            model_registry.move_alias,
            model_id,
            alias,
            version=to,
            note=f"to {to}",
            now=self.core.clock.now,
            user="ben",
        )

    def delete_version(self, version: ModelVersion) -> None:
        self._call(
            model_registry.delete_version,
            version.model.id,
            version.row.number,
            now=self.core.clock.now,
        )

    def delete_job(self, job_id: str) -> None:
        self._call(retention.delete_job, job_id)

    def resolve(self, reference: str) -> int:
        with self.core.database.reading() as session:
            return model_versions.resolve(session, reference).row.number


@pytest.fixture
def registry(core: Core) -> _Registry:
    return _Registry(core)


def _train(core: Core, *iterations: int, **fields: Any) -> str:
    """The id of a finished job with a checkpoint at each of the iterations."""
    running = core.run(**fields)
    core.report(running.attempt_id, 2, environment=ENVIRONMENT)
    for sequence, iteration in enumerate(iterations or (20,), start=3):
        _save(core, running, sequence, iteration)
    core.finish(running.attempt_id)
    core.release(running)
    return job_id_of(running)


def _save(core: Core, running: Taken, sequence: int, iteration: int) -> None:
    error = float(iteration % 100)
    core.report(running.attempt_id, sequence, checkpoints=[note(iteration, test_error=error)])


def _iterations(core: Core, job_id: str) -> list[int]:
    with core.database.reading() as session:
        return [row.iteration for row in checkpoints.list_checkpoints(session, job_id)]


def _history(core: Core, version: ModelVersion) -> list[tuple[str, str | None, dict[str, Any]]]:
    with core.database.reading() as session:
        model = model_versions.find_model(session, version.model.id)
        rows = events.list_events_after(session, model, 0, limit=100)
        return [(row.kind, row.user, row.data) for row in rows]


def test_versions_are_numbered_and_a_number_is_not_used_again(
    core: Core, registry: _Registry
) -> None:
    first, second = registry.register(_train(core)), registry.register(_train(core))
    assert [first.row.number, second.row.number] == [1, 2]
    registry.delete_version(second)
    assert registry.resolve(NAME) == 1
    assert registry.register(_train(core)).row.number == 3
    assert registry.resolve(NAME) == 3


def test_a_promotion_moves_the_alias_a_rollback_moves_it_back_and_the_history_says_so(
    core: Core, registry: _Registry
) -> None:
    first, second = _train(core), _train(core)
    version = registry.register(first)
    registry.register(second)
    seen = []
    for to in (1, 2, 2, 1):
        registry.promote(version, to)
        seen.append(registry.resolve(f"{NAME}@production"))
    assert seen == [1, 2, 2, 1]
    *_, promoted, forward, back = _history(core, version)
    assert (promoted[:2], promoted[2]["from"], promoted[2]["to"]) == (("promoted", "ben"), None, 1)
    assert (forward[2]["from"], forward[2]["to"]) == (1, 2)
    assert back[2] == {"alias": "production", "from": 2, "to": 1, "note": "to 1"}
    assert len(_history(core, version)) == 5, "a repeated promotion changes nothing"


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (NAME, 2),
        (f"{NAME}@2", 2),
        (f"{NAME}@1", 1),
        (f"{NAME}@production", 1),
        (f"{NAME}@3", f"{NAME} has no version 3; the newest is 2"),
        (f"{NAME}@staging", f"{NAME} has no alias 'staging'; its aliases: production"),
        ("resnet-8", "no model 'resnet-8'"),
    ],
)
def test_a_reference_names_a_version_or_the_refusal_says_what_there_is(
    core: Core, registry: _Registry, reference: str, found: int | str
) -> None:
    registry.promote(registry.register(_train(core)), 1)
    registry.register(_train(core))
    if isinstance(found, int):
        assert registry.resolve(reference) == found
    else:
        with pytest.raises(NotFound) as refused:
            registry.resolve(reference)
        assert str(refused.value) == found


def test_a_registered_checkpoint_is_kept_by_retention_and_its_job_from_deletion(
    core: Core, registry: _Registry
) -> None:
    running = core.run(retention={"keep_best": 0, "keep_newest": 1})
    job_id = job_id_of(running)
    _save(core, running, 2, 100)
    kept = registry.register(job_id)
    _save(core, running, 3, 200)
    _save(core, running, 4, 300)
    assert _iterations(core, job_id) == [300, 100]
    other = registry.register(job_id)
    core.end(running, Reason.CANCELLED)
    core.release(running)
    with pytest.raises(Conflict) as refused:
        registry.delete_job(job_id)
    assert str(refused.value) == (
        f"job {job_id} has the weights of {NAME}@1, {NAME}@2 in the model registry; "
        "delete the version first"
    )
    registry.delete_version(other)
    registry._call(model_registry.delete_model, kept.model.id)
    registry.delete_job(job_id)
    assert _iterations(core, job_id) == []


def test_a_version_in_use_and_the_only_version_are_not_deleted(
    core: Core, registry: _Registry
) -> None:
    first = registry.register(_train(core))
    with pytest.raises(Conflict, match=r"version 1 is the only one of .*; delete the model"):
        registry.delete_version(first)
    registry.register(_train(core))
    registry.promote(first, 1)
    registry.promote(first, 1, "staging")
    with pytest.raises(Conflict, match="is production and staging; move or remove"):
        registry.delete_version(first)
    with pytest.raises(Conflict, match=r"is in use as production \(version 1\) and staging"):
        registry._call(model_registry.delete_model, first.model.id)
    for alias in ("production", "staging"):
        registry._call(model_registry.remove_alias, first.model.id, alias, now=core.clock.now)
    registry.delete_version(first)
    assert _history(core, first)[-1] == ("version-deleted", "ann", {"version": 1})


def test_a_checkpoint_has_one_number_in_a_model_and_may_be_in_several(
    core: Core, registry: _Registry
) -> None:
    job_id = _train(core)
    checkpoint = registry.register(job_id).row.checkpoint_id
    with pytest.raises(Conflict, match=f"checkpoint {checkpoint} is version 1 of {NAME}"):
        registry.register(job_id)
    assert registry.register(job_id, name="other").row.number == 1


@pytest.mark.parametrize(
    ("user", "error", "message"),
    [
        ("ben", Forbidden, "only ann, who owns job {}, or an admin may do this; ben is a member"),
        ("ann", NotFound, "job {} has no checkpoint 'last'; it has 1"),
    ],
)
def test_only_an_existing_checkpoint_of_ones_own_is_registered(
    core: Core, registry: _Registry, user: str, error: type[ResnetdError], message: str
) -> None:
    job_id = _train(core)
    with pytest.raises(error) as refused:
        registry.register(job_id, "last", user=user)
    assert str(refused.value) == message.format(job_id)


def test_a_job_without_a_checkpoint_says_whether_one_may_come(
    core: Core, registry: _Registry
) -> None:
    running = core.run()
    for ending in (" yet", ""):
        with pytest.raises(NotFound, match=f"has no checkpoint{ending}$"):
            registry.register(job_id_of(running), "newest")
        if ending:
            core.finish(running.attempt_id)


def test_a_name_belongs_to_the_person_who_took_it(core: Core, registry: _Registry) -> None:
    registry.register(_train(core))
    with pytest.raises(Forbidden, match=f"only ann, who owns model {NAME}, or an admin"):
        registry.register(_train(core, user="ben"), user="ben")


def test_the_lineage_says_from_which_weights_data_and_code_a_version_came(
    core: Core, registry: _Registry
) -> None:
    source = _train(core)
    job_id = _train(core, seed=3, start_from={"job": source, "mode": "weights"})
    lineage = model_versions.lineage_of(registry.register(job_id).row)
    assert lineage.source is not None
    assert (lineage.source.job, lineage.source.iteration) == (source, 20)
    assert (lineage.network, lineage.dataset, lineage.seed) == ("resnet-8-A", "digits", 3)
    assert lineage.dataset_checksum is not None
    assert lineage.dataset_checksum.sha256 == "d" * 64
    assert (lineage.code_version, lineage.code_commit) == ("0.1.0", "c" * 40)
    assert lineage.test_error == 20.0
    new = model_versions.lineage_of(registry.register(source).row)
    assert new.source is None


def test_a_version_whose_files_were_lost_says_so(core: Core, registry: _Registry) -> None:
    version = registry.register(_train(core))

    def lose(session: Session) -> None:
        session.delete(session.get_one(CheckpointRow, version.row.checkpoint_id))

    registry._call(lose)
    with (
        core.database.reading() as session,
        pytest.raises(NotFound, match=f"version 1 of {NAME}, was deleted: its files were"),
    ):
        model_versions.find_checkpoint(session, model_versions.resolve(session, NAME))


def test_registrations_at_one_time_have_different_numbers(core: Core, registry: _Registry) -> None:
    """Also those that create the model."""
    jobs = [_train(core) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(registry.register, jobs))
    assert sorted(version.row.number for version in versions) == [1, 2, 3, 4]
    assert len({version.model.id for version in versions}) == 1


def test_a_job_starts_from_the_version_that_its_model_names_at_the_submission(
    core: Core, registry: _Registry
) -> None:
    first, second = _train(core, 20), _train(core, 30)
    version = registry.register(first)
    registry.promote(version, 1)
    start = {"model": f"{NAME}@production", "mode": "weights"}
    job_id = core.submit(seed=1, start_from=start)
    registry.register(second)
    registry.promote(version, 2)
    job = core.job(job_id)
    saved = job.spec["start_from"]
    assert (saved["job"], saved["checkpoint"], saved["model"]) == (
        *(first, version.row.checkpoint_id),
        None,
    )
    assert (job.source_job_id, job.source_iteration) == (first, 20)
    assert core.events(job_id)[0].data["model"] == f"{NAME}@production"
    later = core.job(core.submit(seed=1, start_from=start))
    assert later.source_job_id == second
    assert later.training_key != job.training_key


@pytest.mark.parametrize("reference", ["unknown", f"{NAME}@7", f"{NAME}@production"])
def test_a_job_cannot_start_from_a_version_that_does_not_exist(
    core: Core, registry: _Registry, reference: str
) -> None:
    registry.register(_train(core))
    with pytest.raises(InvalidInput) as refused:
        core.submit(start_from={"model": reference})
    assert [error.pointer for error in refused.value.field_errors] == ["/start_from/model"]


def test_the_trials_of_a_search_start_from_one_version(core: Core, registry: _Registry) -> None:
    version = registry.register(_train(core))
    registry.promote(version, 1)
    searching = Searching(core)
    start = {"model": f"{NAME}@production", "mode": "weights"}
    search_id = searching.run(job=written(start_from=start))
    registry.register(_train(core))
    registry.promote(version, 2)
    trial = searching.assign_trial(search_id, "a")
    assert core.job(trial.job_id).source_checkpoint_id == version.row.checkpoint_id

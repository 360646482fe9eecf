"""Tokens of attempts, runners and drivers: each opens its own calls and no others."""

import pytest

from service.errors import Unauthorized
from service.execution import credentials
from service.execution.credentials import CallerKind
from tests.support.core import Core, job_id_of
from tests.support.searching import Searching


def _accepts(core: Core, kind: CallerKind, caller_id: str, secret: str) -> bool:
    with core.database.reading() as session:
        try:
            credentials.authenticate(session, kind, caller_id, secret)
        except Unauthorized:
            return False
    return True


def test_an_attempts_token_is_valid_for_that_attempt_only(core: Core) -> None:
    first, second = core.run(), core.run()
    assert _accepts(core, CallerKind.ATTEMPT, first.attempt_id, first.secret)
    assert not _accepts(core, CallerKind.ATTEMPT, first.attempt_id, second.secret)
    assert not _accepts(core, CallerKind.RUNNER, first.runner_id, first.secret)


def test_a_runners_token_is_valid_for_that_runner_only(core: Core) -> None:
    core.record_cluster(cpus=4)
    first, second = core.start_warm_runner(), core.start_warm_runner()
    assert _accepts(core, CallerKind.RUNNER, first.id, first.secret)
    assert not _accepts(core, CallerKind.RUNNER, second.id, first.secret)
    assert first.secret not in str(vars(core.runner(first.id)))


def test_a_drivers_token_is_valid_until_the_driver_has_terminated(core: Core) -> None:
    searching = Searching(core)
    search_id = searching.submit()
    (first,) = searching.start_drivers()
    assert _accepts(core, CallerKind.DRIVER, first.id, first.secret)
    searching.terminate_driver(search_id)
    assert not _accepts(core, CallerKind.DRIVER, first.id, first.secret)
    core.clock.advance(60.0)
    (second,) = searching.start_drivers()
    assert not _accepts(core, CallerKind.DRIVER, first.id, first.secret)
    assert not _accepts(core, CallerKind.DRIVER, second.id, first.secret)
    assert _accepts(core, CallerKind.DRIVER, second.id, second.secret)


@pytest.mark.parametrize("kind", CallerKind)
@pytest.mark.parametrize(
    "caller_id",
    ["", "-a", "unknown-a1", "{job}-a9", "{job}-a1\x00", "{job}", "runner-", "search-0-dx"],
)
def test_an_unknown_or_malformed_id_has_the_answer_of_a_wrong_token(
    core: Core, kind: CallerKind, caller_id: str
) -> None:
    taken = core.run()
    named = caller_id.replace("{job}", job_id_of(taken))
    with core.database.reading() as session, pytest.raises(Unauthorized) as unknown:
        credentials.authenticate(session, kind, named, taken.secret)
    with core.database.reading() as session, pytest.raises(Unauthorized) as wrong:
        credentials.authenticate(session, kind, f"{job_id_of(taken)}-a1", "another token")
    assert str(unknown.value) == str(wrong.value)


def test_a_planned_runner_has_no_valid_token(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.submit()
    assert not _accepts(core, CallerKind.RUNNER, core.claim().runner_id, "")

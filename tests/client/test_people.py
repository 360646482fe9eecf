"""People and tokens: the client and the command."""

import csv
import stat
from pathlib import Path

import pytest

import resnetd
from tests.client.conftest import Command
from tests.client.service import Service
from tests.support.core import cancelled


def _rows(command: Command) -> list[list[str]]:
    return [line.split() for line in command.out.splitlines()[1:]]


def test_a_person_is_added_with_a_token_that_says_who_it_is(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        command("people", "add", "ann", "--role", "viewer", "--group", "cs101", "--days", "30") == 0
    )
    token = command.out.strip()
    monkeypatch.setenv("RESNETD_TOKEN", token)
    assert command("whoami") == 0
    first, second = command.out.splitlines()
    assert first == "ann, viewer, in group cs101"
    assert second.startswith("token: full, expires at ")
    assert command("people", "list") == 1
    assert "needs the role admin; ann is a viewer" in command.err


def test_roles_are_changed_and_people_removed(command: Command) -> None:
    command("people", "add", "ann")
    assert command("people", "set-role", "ann", "admin") == 0
    assert command.out == "ann is admin\n"
    assert command("people", "set-group", "ann", "cs101") == 0
    assert command.out == "ann is in group cs101\n"
    command("people", "list")
    assert [row[:3] for row in _rows(command)][1] == ["ann", "admin", "cs101"]
    assert command("people", "set-group", "ann") == 0
    assert command.out == "ann is in no group\n"
    assert command("people", "remove", "ann", "--delete-jobs") == 0
    assert command.out == "ann removed\n"
    assert command("people", "remove", "ann") == 102


def test_the_jobs_of_a_removed_person_stay_or_go_by_choice(
    command: Command, service: Service, client: resnetd.Client
) -> None:
    kept, deleted = (cancelled(service.core, user=name) for name in ("ann", "ben"))
    for name in ("ann", "ben"):
        command("people", "add", name)
    assert command("people", "remove", "ann") == 0
    assert command("people", "remove", "ben", "--delete-jobs") == 0
    assert [job.id for job in client.jobs.list()] == [kept]
    assert command("show", deleted) == 102


def test_a_token_is_created_listed_rotated_and_revoked(
    command: Command, client: resnetd.Client
) -> None:
    client.people.add("ann")
    created = ("token", "create", "CI", "--user", "ann", "--scope", "submit", "--tag", "nightly")
    assert command(*created) == 0
    secret = command.out.strip()
    assert command("token", "list", "--user", "ann") == 0
    ((token_id, *shown),) = _rows(command)
    assert shown[:4] == ["ann", "CI", "submit", "nightly"]
    assert command("token", "rotate", token_id) == 0
    assert command.out.strip() not in {"", secret}
    assert command("token", "revoke", token_id) == 0
    assert client.tokens.list(user="ann") == ()


def test_a_roster_becomes_people_with_a_file_of_tokens(
    command: Command, client: resnetd.Client, tmp_path: Path
) -> None:
    client.people.add("ann")  # of an import that was interrupted: without a token
    roster, tokens = tmp_path / "class.csv", tmp_path / "tokens.csv"
    roster.write_text("name,role,group\nann,,\nbob, viewer, cs101\nadmin,admin,\n")
    assert command("people", "import", str(roster), "--tokens", str(tokens)) == 0
    assert command.out == f"2 added; their tokens are in {tokens}\n"
    assert "admin is there already" in command.err
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    rows = list(csv.DictReader(tokens.read_text().splitlines()))
    assert [(row["name"], row["role"]) for row in rows] == [("ann", "member"), ("bob", "viewer")]
    with resnetd.Client(client.url, rows[1]["token"]) as bob:
        assert (bob.whoami().role, bob.whoami().group) == ("viewer", "cs101")
    again = tmp_path / "again.csv"
    assert command("people", "import", str(roster), "--tokens", str(again)) == 0
    assert command.out.startswith("0 added")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann\n", "must have a header line"),
        ("name\nann\nann\n", "line 3: 'ann' is there twice"),
        ("name,role\nann,teacher\n", "line 2: the role must be viewer, member or admin"),
        ("name,role\n,member\n", "line 2: the name is missing"),
    ],
)
def test_a_wrong_roster_adds_no_person(
    command: Command, client: resnetd.Client, tmp_path: Path, text: str, message: str
) -> None:
    roster, tokens = tmp_path / "class.csv", tmp_path / "tokens.csv"
    roster.write_text(text)
    assert command("people", "import", str(roster), "--tokens", str(tokens)) == 2
    assert message in " ".join(command.err.replace("│", " ").split())
    assert not tokens.exists()
    assert len(client.people.list()) == 1


def test_a_file_of_tokens_is_not_overwritten(command: Command, tmp_path: Path) -> None:
    roster = tmp_path / "class.csv"
    roster.write_text("name\nann\n")
    assert command("people", "import", str(roster), "--tokens", str(roster)) == 2
    assert roster.read_text() == "name\nann\n"


def test_the_audit_log_is_listed(command: Command) -> None:
    command("people", "add", "zoe")
    # Other tests have left entries of the same time.
    assert command("audit", "--limit", "1000") == 0
    shown = [" ".join(row) for row in _rows(command)]
    assert any("admin person-added zoe" in row for row in shown)


def test_an_event_names_the_person_who_caused_it(command: Command, client: resnetd.Client) -> None:
    job = client.submit(depth=8, shortcut="A", dataset="digits")
    client.jobs.cancel(job.id)
    assert command("events", job.id) == 0
    assert command.out.splitlines()[-1].endswith("queued -> cancelled by admin")


def test_fair_share_is_set_and_shown(command: Command) -> None:
    assert command("fair-share", "set", "--weight", "0") == 0
    assert command.out.splitlines()[0] == "weight 0, half-life 7 d: off"
    assert command("fair-share", "set", "--weight", "50", "--half-life-days", "14") == 0
    assert command("fair-share", "show") == 0
    assert command.out.splitlines()[0] == "weight 50, half-life 14 d"


def test_quotas_are_set_listed_and_deleted(command: Command) -> None:
    assert command("quota", "set", "user:*", "--jobs", "2", "--core-hours", "20") == 0
    assert command("quota", "list") == 0
    assert _rows(command) == [["user:*", "2", "20"]]
    assert command("quota", "delete", "user:*") == 0
    assert command("quota", "delete", "user:*") == 102

"""`resnetd study ...` and definitions of one's own."""

import json
from pathlib import Path

import yaml

from service.states import Reason
from tests.client.conftest import Command
from tests.client.service import Service
from tests.support.studies import definition, finish_next


def test_a_study_is_submitted_watched_and_reported(service: Service, command: Command) -> None:
    Path("own.yaml").write_text(yaml.safe_dump(definition()))
    assert command("study", "run", "own.yaml", "--seeds", "1", "--set", "priority=90") == 0
    study_id = command.out.strip()
    finish_next(service.core, 9.0)
    finish_next(service.core, 8.0)
    assert command("study", "watch", study_id[:12]) == 0
    assert "smaller by 1.00 points with one seed" in command.out
    assert command("study", "show", study_id, "-o", "json") == 0
    members = json.loads(command.out)["members"]
    assert [member["label"] for member in members] == ["plain-8", "resnet-8"]
    assert command("study", "report", study_id, "--format", "csv") == 0
    assert command.out.startswith("study,scale,dataset")
    assert command("study", "report", study_id, "--format", "svg", "--file", "curves.svg") == 0
    assert Path("curves.svg").read_text().startswith("<?xml")
    assert command("study", "list") == 0
    assert study_id in command.out
    assert "fig6: Figure 6 and Table 6" in command.out
    assert command("study", "delete", study_id) == 0
    assert command("study", "show", study_id) == 102


def test_the_watch_of_a_study_with_a_failed_job_ends_with_an_error(
    service: Service, command: Command
) -> None:
    assert command("study", "run", "fig1", "--seeds", "1") == 0
    study_id = command.out.strip()
    finish_next(service.core, 9.0)
    assert command("study", "show", study_id) == 0
    assert "of 1 seed: 1 queued" in command.out
    service.run_next().finish(Reason.DIVERGED)
    assert command("study", "watch", study_id) == 100
    assert "of 1 seed: 1 failed" in command.out


def test_wrong_studies_are_refused(command: Command) -> None:
    Path("list.yaml").write_text("[1, 2]")
    Path("broken.yaml").write_text("a: [1")
    for name in ("list.yaml", "broken.yaml", "missing.yaml"):
        assert command("study", "run", name) == 2
        assert name in command.err
        assert "Traceback" not in command.err
    assert command("study", "run", "fig99") == 102
    assert "known are" in command.err
    assert command("study", "report", "0f3k", "--format", "png") == 2

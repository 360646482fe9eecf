"""`resnetd verify`: what is checked, in which words, and with which exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from resnetd import verification
from resnetd.verification import Outcome
from tests.client.conftest import Command
from tests.client.service import Service
from tests.support.core import ENVIRONMENT


@pytest.fixture
def job_id(service: Service) -> str:
    training = service.run()
    training.report(environment=ENVIRONMENT)
    training.save(20, test_error=2.5)
    training.finish()
    return training.job_id


@pytest.fixture
def files(job_id: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A card and its weights, on a machine without the workers' package."""
    monkeypatch.setattr(verification, "find_worker", lambda: None)
    card, weights = Path("card.json"), Path("net.safetensors")
    assert command("result-card", job_id, "-o", str(card)) == 0
    assert command("download", job_id, "--to", str(weights)) == 0
    return card, weights


def test_without_the_workers_package_the_error_is_not_checked(
    files: tuple[Path, Path], command: Command
) -> None:
    assert command("verify", *map(str, files)) == 2
    signature, weights, error = command.out.splitlines()
    assert signature.startswith("signature   reproduced  valid, of the key ")
    assert weights == "weights     reproduced  the card's part weights of iteration 20"
    assert error.startswith("test error  unchecked   not evaluated: the package ")


def test_a_card_in_another_layout_of_json_is_the_same_card(
    files: tuple[Path, Path], command: Command
) -> None:
    card = files[0]
    card.write_text(json.dumps(json.loads(card.read_text()), indent=4, sort_keys=False))
    command("verify", *map(str, files))
    assert "valid" in command.out


def _change(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("spoil", "code", "sentence"),
    [
        (
            lambda path: _change(path, lambda it: it["card"]["result"].update(test_error=2.4)),
            1,
            "signature   differs     does not match: the card was changed after it was signed",
        ),
        (
            lambda path: _change(path, lambda it: it["signature"].update(key_fingerprint="f" * 64)),
            1,
            f"signature   differs     the card was signed with the key {'f' * 64}; the service",
        ),
        (
            lambda path: path.write_bytes(path.read_bytes()[:500]),
            2,
            "card.json is not a complete JSON file: ",
        ),
        (lambda path: path.write_text('[{"a": 1}]'), 2, "card.json is JSON, but not a result card"),
        (
            lambda path: _change(path, lambda it: it["card"].update(version=2)),
            2,
            "card.json is a result card of version 2; this client knows version 1",
        ),
        (
            lambda path: _change(path, lambda it: it.pop("signature")),
            2,
            "card.json is a result card without a valid signature",
        ),
        (Path.unlink, 2, "card.json: No such file or directory"),
    ],
    ids=["number", "key", "truncated", "foreign", "version", "unsigned", "missing"],
)
def test_a_card_that_is_not_the_services_is_one_sentence(
    spoil: Callable[[Path], object],
    code: int,
    sentence: str,
    files: tuple[Path, Path],
    command: Command,
) -> None:
    spoil(files[0])
    assert command("verify", *map(str, files)) == code
    (line,) = (command.out + command.err).splitlines()
    assert line.startswith(sentence)


def test_other_weights_differ(files: tuple[Path, Path], command: Command) -> None:
    files[1].write_bytes(b"other")
    assert command("verify", *map(str, files)) == 1
    assert "net.safetensors is not a file of the card: it has SHA-256 d9298a10d" in command.out


def test_a_key_in_a_file_takes_the_place_of_the_services(
    files: tuple[Path, Path], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("signing-key") == 0
    Path("ours.pem").write_text(command.out)
    other = Ed25519PrivateKey.generate().public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    Path("other.pem").write_bytes(other.public_bytes(serialization.Encoding.PEM, spki))
    Path("no.pem").write_text("-----BEGIN")

    monkeypatch.setenv("RESNETD_URL", "http://127.0.0.1:1")  # no service is needed
    command("verify", *map(str, files), "--key", "ours.pem")
    assert "signature   reproduced" in command.out
    assert command("verify", *map(str, files), "--key", "other.pem") == 1
    assert "; other.pem has the key " in command.out
    assert command("verify", *map(str, files), "--key", "no.pem") == 2
    assert command.err == "no.pem has no Ed25519 public key in PEM\n"


def test_a_worker_that_cannot_evaluate_says_why(
    files: tuple[Path, Path], command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    worker = tmp_path / "resnetd-worker"
    worker.write_text("#!/bin/sh\necho 'resnetd-worker: the images are others' >&2\nexit 1\n")
    worker.chmod(0o755)
    monkeypatch.setattr(verification, "find_worker", lambda: str(worker))
    assert command("verify", *map(str, files)) == 2
    assert "unchecked   not evaluated: the images are others\n" in command.out


_FOUND: dict[str, Any] = {
    "images": 360,
    "wrong": 9,
    "expected_wrong": 9,
    "near_ties": 2,
    "hardware_differences": [],
}
_OTHER = {"hardware_differences": ["device cpu instead of NVIDIA H100"]}


@pytest.mark.parametrize(
    ("found", "outcome", "text"),
    [
        ({}, Outcome.REPRODUCED, "2.50 %: 9 wrong of 360, as on the card"),
        ({"wrong": 10}, Outcome.DIFFERS, "1 more than on the card, on the same class of hardware"),
        (
            {"wrong": 7} | _OTHER,
            Outcome.REPRODUCED,
            "2 fewer than on the card; on other hardware (device cpu instead of NVIDIA H100)",
        ),
        ({"wrong": 12} | _OTHER, Outcome.DIFFERS, "3 more than on the card; on other hardware"),
    ],
)
def test_an_evaluation_is_judged_by_its_hardware(
    found: dict[str, Any], outcome: Outcome, text: str
) -> None:
    judged = verification.judge_evaluation(_FOUND | found)
    assert judged.outcome is outcome
    assert text in judged.text
    assert ("a difference of up to 2 is accepted" in judged.text) is ("other hardware" in text)

"""Verification of result cards: the signature, the weights, and the test error.

The test error is evaluated again by `resnetd-worker evaluate`, which needs torch and the images.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from resnetd.errors import UnusableFile

_KIND, _VERSION = "resnetd-result-card", 1
# Of a card, to refuse another large file at once. It has a few kilobytes.
_MAX_CARD_BYTES = 10_000_000
_READ_BYTES = 1 << 20


class Outcome(StrEnum):
    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    UNCHECKED = "unchecked"


@dataclass(frozen=True)
class Finding:
    """The outcome of a check, and a sentence about it."""

    check: str
    outcome: Outcome
    text: str


@dataclass(frozen=True)
class SignedCard:
    """`signed`: the bytes that the signature is of."""

    card: Mapping[str, Any]
    signed: bytes
    signature: bytes
    key_fingerprint: str


def read_card(path: Path) -> SignedCard:
    """UnusableFile says why the file is no result card, OSError why it cannot be read."""
    with path.open("rb") as file:
        content = file.read(_MAX_CARD_BYTES)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnusableFile(f"{path} is not a complete JSON file: {error}") from error
    card = document.get("card") if isinstance(document, dict) else None
    if not isinstance(card, dict) or card.get("kind") != _KIND:
        raise UnusableFile(f"{path} is JSON, but not a result card of resnetd")
    if card.get("version") != _VERSION:
        raise UnusableFile(
            f"{path} is a result card of version {card.get('version')}; "
            f"this client knows version {_VERSION}"
        )
    try:
        signature = document["signature"]
        value = base64.b64decode(signature["value"], validate=True)
        fingerprint = str(signature["key_fingerprint"])
        return SignedCard(card, rfc8785.dumps(card), value, fingerprint)
    except (KeyError, TypeError, ValueError, rfc8785.CanonicalizationError) as error:
        raise UnusableFile(f"{path} is a result card without a valid signature") from error


def check_signature(card: SignedCard, public_key: str, *, owner: str) -> Finding:
    """`public_key` in PEM; `owner` names it in a sentence. UnusableFile if it is no such key."""
    key, fingerprint = load_public_key(public_key, owner=owner)
    if fingerprint != card.key_fingerprint:
        text = (
            f"the card was signed with the key {card.key_fingerprint}; {owner} has the key "
            f"{fingerprint}"
        )
        return Finding("signature", Outcome.DIFFERS, text)
    try:
        key.verify(card.signature, card.signed)
    except InvalidSignature:
        text = "does not match: the card was changed after it was signed"
        return Finding("signature", Outcome.DIFFERS, text)
    return Finding("signature", Outcome.REPRODUCED, f"valid, of the key {fingerprint}")


def load_public_key(public_key: str, *, owner: str) -> tuple[Ed25519PublicKey, str]:
    """The key, and the SHA-256 of its DER encoding."""
    try:
        key = serialization.load_pem_public_key(public_key.encode())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UnusableFile(f"{owner} has no Ed25519 public key in PEM")
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key, hashlib.sha256(der).hexdigest()


def check_weights(card: SignedCard, weights: Path) -> Finding:
    """Whether the file is one of the card's, byte for byte. OSError if it cannot be read."""
    digest = hashlib.sha256()
    with weights.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    for checkpoint in card.card["checkpoints"]:
        for part, file_of_card in checkpoint["files"].items():
            if file_of_card["sha256"] == sha256:
                text = f"the card's part {part} of iteration {checkpoint['iteration']}"
                return Finding("weights", Outcome.REPRODUCED, text)
    expected = ", ".join(
        f"{checkpoint['files']['weights']['sha256']} of iteration {checkpoint['iteration']}"
        for checkpoint in card.card["checkpoints"]
    )
    text = f"{weights} is not a file of the card: it has SHA-256 {sha256}, the weights {expected}"
    return Finding("weights", Outcome.DIFFERS, text)


def evaluate(card_path: Path, weights: Path, data_dir: Path | None) -> Finding:
    """Evaluates the weights on the test images again, where the workers' package is installed."""
    worker = find_worker()
    if worker is None:
        text = (
            "not evaluated: the package resnetd-server[workers] with its command resnetd-worker is "
            "not installed on this machine"
        )
        return Finding("test error", Outcome.UNCHECKED, text)
    data = [] if data_dir is None else ["--data-dir", str(data_dir)]
    command = [worker, "evaluate", str(card_path), str(weights), *data]
    completed = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, text=True, check=False
    )
    if completed.returncode != 0:
        lines = completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"]
        text = f"not evaluated: {lines[-1].removeprefix('resnetd-worker: ')}"
        return Finding("test error", Outcome.UNCHECKED, text)
    return judge_evaluation(json.loads(completed.stdout))


def judge_evaluation(found: Mapping[str, Any]) -> Finding:
    """`found`: what `resnetd-worker evaluate` prints.

    On the same hardware the number of wrong images must be that of the card. On other hardware
    rounding may change the images whose two highest scores are nearly equal.
    """
    images, wrong, expected = found["images"], found["wrong"], found["expected_wrong"]
    text = f"{100 * wrong / images:.2f} %: {wrong} wrong of {images}"
    if wrong == expected:
        return Finding("test error", Outcome.REPRODUCED, f"{text}, as on the card")
    difference = abs(wrong - expected)
    text += f", {difference} {'more' if wrong > expected else 'fewer'} than on the card"
    differences: Sequence[str] = found["hardware_differences"]
    if not differences:
        text += ", on the same class of hardware, where the number must be equal"
        return Finding("test error", Outcome.DIFFERS, text)
    tolerance = found["near_ties"]
    text += (
        f"; on other hardware ({'; '.join(differences)}) a difference of up to {tolerance} is "
        "accepted: of the images whose two highest scores are nearly equal"
    )
    is_accepted = difference <= tolerance
    return Finding("test error", Outcome.REPRODUCED if is_accepted else Outcome.DIFFERS, text)


def verify(
    card_path: Path, weights: Path, *, public_key: str, owner: str, data_dir: Path | None
) -> Iterator[Finding]:
    """The findings in their order; a check that needs an earlier one is made only after that."""
    card = read_card(card_path)
    signature = check_signature(card, public_key, owner=owner)
    yield signature
    if signature.outcome is not Outcome.REPRODUCED:
        return
    found = check_weights(card, weights)
    yield found
    if found.outcome is Outcome.REPRODUCED:
        yield evaluate(card_path, weights, data_dir)


def find_worker() -> str | None:
    """The command of the workers' package: beside this Python, or on the path."""
    beside = shutil.which("resnetd-worker", path=str(Path(sys.executable).parent))
    return beside or shutil.which("resnetd-worker")

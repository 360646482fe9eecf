"""The weights of a result card, evaluated again."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.errors import ResnetdError
from service.specs.result_card import ResultCard, SignedResultCard
from service.states import CheckpointPart
from tests.workers.training.support import CPU, run, small_spec
from workers.reporting import reports
from workers.training import verification
from workers.training.device_context import DeviceContext
from workers.training.verification import Evaluation

NOW = datetime(2026, 11, 21, tzinfo=UTC).isoformat()
TTA = {"test_time_augmentation": "hflip", "bn_statistics": "precise"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A signed card, whose signature is not checked here, and the weights."""
    folder = tmp_path_factory.mktemp("trained")
    spec = small_spec(TTA)
    outcome, observer = run(
        spec, folder, context=DeviceContext(rank=0, world_size=1, device=CPU, threads=2)
    )
    environment = asdict(observer.environments[0])
    saved = observer.saved[-1]
    manifest = reports.make_manifest(saved)
    assert outcome.test_error is not None
    wrong = round(outcome.test_error / 100 * environment["test_images"])
    files = {
        digest.part: {"sha256": digest.sha256, "size_bytes": digest.size_bytes}
        for digest in manifest.parts
    }
    versions, numerics = environment["versions"], environment["numerics"]
    card = ResultCard.model_validate(
        {
            "job": {
                "id": "0" * 16,
                "network": spec.network,
                "created_at": NOW,
                "started_at": NOW,
                "finished_at": NOW,
                "attempts": 1,
                "start_iteration": None,
            },
            "spec": spec.model_dump(mode="json", exclude={"name", "tags", "after"}),
            "training_key": "0" * 64,
            "code": {
                "version": versions["resnetd"],
                "commit": versions.get("commit"),
                "training_code_sha256": versions["training_code_sha256"],
            },
            "packages": versions,
            "dataset": {
                "name": spec.dataset,
                "classes": environment["classes"],
                "train_images": environment["train_images"],
                "test_images": environment["test_images"],
                "checksum": environment["data_checksum"],
            },
            "hardware": {
                "device": environment["device"],
                "num_workers": 1,
                "machine": numerics["machine"],
                "cpu_capability": numerics["cpu_capability"],
                "numerics": numerics,
            },
            "training": {"iterations": 12, "seconds": 1.0, "gpu_energy_joules": None},
            "result": {
                "test_error": outcome.test_error,
                "wrong_test_images": wrong,
                "test_top5_error": None,
                "validation_error": None,
                "train_error": None,
            },
            "metrics": None,
            "checkpoints": [
                {
                    "id": "1" * 16,
                    "iteration": 12,
                    "test_error": outcome.test_error,
                    "wrong_test_images": wrong,
                    "files": files,
                }
            ],
        }
    )
    signature = {"key_fingerprint": "0" * 64, "value": ""}
    signed = SignedResultCard.model_validate({"card": card, "signature": signature})
    return signed.model_dump(mode="json"), saved.files[CheckpointPart.WEIGHTS]


def _evaluate(document: dict[str, Any], weights: Path, folder: Path, **card: Any) -> Evaluation:
    changed = document | {"card": document["card"] | card}
    path = folder / "card.json"
    path.write_text(SignedResultCard.model_validate(changed).model_dump_json())
    return verification.evaluate_card(path, weights, folder)


def test_the_same_images_are_wrong(trained: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    found = _evaluate(*trained, tmp_path)
    assert found.images == 360
    assert 0 < found.wrong == found.expected_wrong < 360
    assert found.hardware_differences == []


def test_other_hardware_is_named(trained: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    hardware = trained[0]["card"]["hardware"] | {"device": "NVIDIA H100", "cpu_capability": "none"}
    found = _evaluate(*trained, tmp_path, hardware=hardware)
    assert found.hardware_differences[0] == "device cpu instead of NVIDIA H100"
    assert found.hardware_differences[1].endswith("instead of none")


def test_other_images_are_refused_by_their_checksum(
    trained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    dataset = trained[0]["card"]["dataset"]
    dataset = dataset | {"checksum": {"sha256": "e" * 64, "scope": "images"}}
    with pytest.raises(ResnetdError, match=r"^the images of digits in .* are not those of"):
        _evaluate(*trained, tmp_path, dataset=dataset)


def test_other_weights_and_other_documents_are_refused(
    trained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    document, weights = trained
    state = weights.with_name("state.safetensors")
    with pytest.raises(ResnetdError, match="is the card's state; the weights as safetensors are"):
        _evaluate(document, state, tmp_path)
    other = tmp_path / "other"
    other.write_bytes(b"other")
    with pytest.raises(ResnetdError, match="is not a file of the card: it has SHA-256 d9298a10d"):
        _evaluate(document, other, tmp_path)
    with pytest.raises(ResnetdError, match="other is not a result card: "):
        verification.evaluate_card(other, weights, tmp_path)
    with pytest.raises(ResnetdError, match="the card's spec is not one of this version"):
        _evaluate(document, weights, tmp_path, spec={"depth": 8})


def test_weights_that_were_not_evaluated_are_refused(
    trained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    (checkpoint,) = trained[0]["card"]["checkpoints"]
    with pytest.raises(ResnetdError, match="these weights were not evaluated"):
        _evaluate(*trained, tmp_path, checkpoints=[checkpoint | {"wrong_test_images": None}])

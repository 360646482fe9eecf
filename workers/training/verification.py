"""Evaluates the weights of a result card again, on the test images and in the way of the training.

It does not check the card's signature: `resnetd verify` does.

Shapes: N batch, K classes.
"""

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from pydantic import ValidationError
from torch import Tensor

from service.errors import ResnetdError
from service.specs.job_spec import JobSpec
from service.specs.result_card import CardCheckpoint, ResultCard, SignedResultCard
from service.states import CheckpointPart
from workers.training import evaluation
from workers.training.data.data_source import DataSource, EvaluationSplit, open_data_source
from workers.training.device_context import DeviceContext
from workers.training.export import MAX_LOGIT_DIFFERENCE
from workers.training.models import resnet, weight_markers

# Two scores this close may change their order when float32 sums are rounded in another way.
NEAR_TIE = 2 * MAX_LOGIT_DIFFERENCE


class VerificationError(ResnetdError):
    """The weights cannot be evaluated as the card says."""


@dataclass(frozen=True)
class Evaluation:
    """`near_ties`: images whose two highest scores differ by less than NEAR_TIE.

    `hardware_differences` to the training: empty if results must be equal to the last image.
    """

    images: int
    wrong: int
    expected_wrong: int
    near_ties: int
    hardware_differences: list[str]


def evaluate_card(card_path: Path, weights_path: Path, data_dir: Path) -> Evaluation:
    """VerificationError or another ResnetdError if it cannot be done, OSError."""
    card = _read_card(card_path)
    spec = _read_spec(card)
    checkpoint = _find_checkpoint(card, weights_path)
    if checkpoint.wrong_test_images is None:
        raise VerificationError(
            f"the card has no test error of iteration {checkpoint.iteration}: these weights were "
            "not evaluated"
        )
    is_gpu = card.hardware.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda:0" if is_gpu else "cpu")
    threads = int(card.hardware.numerics.get("threads", "1"))
    DeviceContext(rank=0, world_size=1, device=device, threads=threads).configure_process()
    source = open_data_source(spec, data_dir, device=device, threads=threads)
    try:
        _require_same_images(card, source, data_dir)
        wrong, near_ties = _count(spec, weights_path, source, device)
        images = source.test_images
    finally:
        source.close()
    differences = _list_hardware_differences(card, device)
    return Evaluation(images, wrong, checkpoint.wrong_test_images, near_ties, differences)


def _read_card(path: Path) -> ResultCard:
    try:
        return SignedResultCard.model_validate_json(path.read_bytes()).card
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "/".join(map(str, first["loc"]))
        raise VerificationError(f"{path} is not a result card: {where} {first['msg']}") from error


def _read_spec(card: ResultCard) -> JobSpec:
    try:
        return JobSpec.model_validate(card.spec)
    except ValidationError as error:
        raise VerificationError(
            f"the card's spec is not one of this version of resnetd; the training was made by "
            f"version {card.code.version}"
        ) from error


def _find_checkpoint(card: ResultCard, weights_path: Path) -> CardCheckpoint:
    sha256 = hashlib.sha256(weights_path.read_bytes()).hexdigest()
    for checkpoint in card.checkpoints:
        for part, file in checkpoint.files.items():
            if file.sha256 == sha256 and part is not CheckpointPart.WEIGHTS:
                raise VerificationError(
                    f"{weights_path} is the card's {part}; the weights as safetensors are needed"
                )
            if file.sha256 == sha256:
                return checkpoint
    raise VerificationError(f"{weights_path} is not a file of the card: it has SHA-256 {sha256}")


def _require_same_images(card: ResultCard, source: DataSource, data_dir: Path) -> None:
    expected = card.dataset.checksum
    if expected is not None and expected.sha256 != source.checksum.sha256:
        raise VerificationError(
            f"the images of {card.dataset.name} in {data_dir} are not those of the card: they have "
            f"SHA-256 {source.checksum.sha256}, the card has {expected.sha256}"
        )


@torch.no_grad()
def _count(
    spec: JobSpec, weights_path: Path, source: DataSource, device: torch.device
) -> tuple[int, int]:
    """The number of wrong images and of near ties."""
    model = resnet.build_network(spec, source.classes).to(device)
    try:
        model.load_state_dict(weight_markers.load_weights(weights_path), strict=True)
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise VerificationError(f"{weights_path} does not fit {spec.network}: {error}") from error
    model.to(memory_format=torch.channels_last)
    wrong = near_ties = 0

    def count_batch(scores_NK: Tensor, labels_N: Tensor) -> None:
        nonlocal wrong, near_ties
        top_N2 = scores_NK.topk(2, dim=1).values
        near_ties += int((top_N2[:, 0] - top_N2[:, 1] < NEAR_TIE).sum())
        wrong += int((scores_NK.argmax(dim=1) != labels_N).sum())

    batches = source.load_evaluation_batches(EvaluationSplit.TEST, rank=0, world_size=1)
    mode = spec.recipe.test_time_augmentation
    evaluation.evaluate(model, batches, mode, device=device, record=count_batch)
    return wrong, near_ties


def _list_hardware_differences(card: ResultCard, device: torch.device) -> list[str]:
    """What affects how sums are rounded: the device, the instructions of a CPU, and torch."""
    is_gpu = device.type == "cuda"
    here = {"device": torch.cuda.get_device_name(device) if is_gpu else "cpu"}
    trained = {"device": card.hardware.device}
    if not is_gpu:
        here |= {
            "machine": platform.machine(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        }
        trained |= {
            "machine": card.hardware.machine or "unknown",
            "cpu_capability": card.hardware.cpu_capability or "unknown",
        }
    here["torch"], trained["torch"] = torch.__version__, card.packages.get("torch", "unknown")
    return [
        f"{name} {here[name]} instead of {value}"
        for name, value in trained.items()
        if here[name] != value
    ]

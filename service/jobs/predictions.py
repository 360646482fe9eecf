"""What follows from the predictions that finished jobs keep, without evaluating again.

Shapes: N images, K classes, J jobs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from service.errors import invalid_parameter
from service.jobs import checkpoints, records
from service.states import CheckpointPart
from service.storage.artifacts import ArtifactStore

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# Above it a matrix of all pairs is neither read nor drawn.
MAX_MATRIX_CLASSES = 100
_MOST_CONFUSED = 20
_LISTED_IMAGES = 100
_TOP = 5


@dataclass(frozen=True)
class Predictions:
    """Of the test images of a job, in their order; `class_names` in the order of the logits.

    `logits_NK` is None where only the highest were kept. `top5_N5`: the classes with the highest
    logits, highest first.
    """

    job_id: str
    dataset: str
    class_names: list[str]
    labels_N: "Array"
    predicted_N: "Array"
    top5_N5: "Array"
    logits_NK: "Array | None"

    @property
    def is_wrong_N(self) -> "Array":
        wrong_N: Array = self.predicted_N != self.labels_N
        return wrong_N


@dataclass(frozen=True)
class ConfusedPair:
    label: int
    predicted: int
    images: int


@dataclass(frozen=True)
class Confusion:
    """`matrix`: images by class and predicted class; None above 100 classes.

    `class_errors` in percent, None for a class without images.
    """

    images: int
    class_images: list[int]
    class_errors: list[float | None]
    matrix: list[list[int]] | None
    most_confused: list[ConfusedPair]


@dataclass(frozen=True)
class PairedPredictions:
    """Two jobs image by image. `p`: of McNemar's exact test that both are equally often wrong.

    `images`: the first of those that only one of them predicts.
    """

    a: str
    b: str
    both_wrong: int
    only_a_wrong: int
    only_b_wrong: int
    p: float
    images: list[int]


@dataclass(frozen=True)
class Ensemble:
    """Errors in percent of the mean probabilities; None where a job keeps only its highest."""

    error: float | None
    top5_error: float | None


def read_predictions(session: Session, artifacts: ArtifactStore, job_id: str) -> Predictions:
    """Of the job's newest checkpoint. NotFound where it keeps none."""
    # A tenth of a second, for requests of this kind only.
    import numpy as np  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    job = records.find_job(session, job_id)
    newest = checkpoints.find_checkpoint(session, job_id, "newest")
    file = checkpoints.find_file(session, newest, CheckpointPart.PREDICTIONS)
    content = b"".join(artifacts.read(file.key))
    tensors = load(content)
    logits_NK = tensors.get("logits")
    if logits_NK is None:
        top5_N5 = tensors["top5_labels"]
    else:
        top5_N5 = np.argsort(-logits_NK, axis=1, kind="stable")[:, :_TOP]
    return Predictions(
        job_id,
        job.dataset,
        json.loads(_read_metadata(content)["class_names"]),
        tensors["labels"],
        tensors["predicted"],
        top5_N5,
        logits_NK,
    )


def count_confusion(found: Predictions) -> Confusion:
    """Which classes are predicted as which."""
    import numpy as np  # noqa: PLC0415

    classes = len(found.class_names)
    pairs = found.labels_N.astype(np.int64) * classes + found.predicted_N
    codes, counts = np.unique(pairs[found.is_wrong_N], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_CONFUSED]
    images = np.bincount(found.labels_N, minlength=classes)
    wrong = np.bincount(found.labels_N[found.is_wrong_N], minlength=classes)
    matrix = None
    if classes <= MAX_MATRIX_CLASSES:
        matrix = np.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist()
    return Confusion(
        images=len(found.labels_N),
        class_images=images.tolist(),
        class_errors=[
            100 * mistakes / count if count else None
            for mistakes, count in zip(wrong.tolist(), images.tolist(), strict=True)
        ],
        matrix=matrix,
        most_confused=[
            ConfusedPair(int(codes[i]) // classes, int(codes[i]) % classes, int(counts[i]))
            for i in order
        ],
    )


def require_same_images(found: Sequence[Predictions]) -> None:
    """InvalidInput unless all are of the same test images."""
    first = found[0]
    for other in found[1:]:
        if other.dataset != first.dataset or other.labels_N.tolist() != first.labels_N.tolist():
            raise invalid_parameter(
                "/job",
                f"jobs {first.job_id} and {other.job_id} were tested on different images: "
                f"{first.dataset} and {other.dataset}",
            )


def compute_errors(found: Predictions) -> tuple[float, float]:
    """Top-1 and top-5 error in percent."""
    top5_N = (found.top5_N5 == found.labels_N[:, None]).any(axis=1)
    return 100 * float(found.is_wrong_N.mean()), 100 * float(1 - top5_N.mean())


def combine(found: Sequence[Predictions]) -> Ensemble:
    """The ensemble that averages the probabilities, as in Table 5 of the paper."""
    import numpy as np  # noqa: PLC0415
    from scipy.special import softmax  # noqa: PLC0415

    logits_JNK = [item.logits_NK for item in found if item.logits_NK is not None]
    if len(logits_JNK) < len(found):
        return Ensemble(None, None)
    mean_NK = np.mean([softmax(logits.astype(np.float32), axis=1) for logits in logits_JNK], axis=0)
    top_N5 = np.argsort(-mean_NK, axis=1, kind="stable")[:, :_TOP]
    is_right_N5 = top_N5 == found[0].labels_N[:, None]
    return Ensemble(
        error=100 * float(1 - is_right_N5[:, 0].mean()),
        top5_error=100 * float(1 - is_right_N5.any(axis=1).mean()),
    )


def compare_images(found: Sequence[Predictions]) -> list[PairedPredictions]:
    """Each pair of jobs."""
    from scipy.stats import binomtest  # noqa: PLC0415

    pairs = []
    for a, b in combinations(found, 2):
        only_a_N, only_b_N = a.is_wrong_N & ~b.is_wrong_N, b.is_wrong_N & ~a.is_wrong_N
        only_a, only_b = int(only_a_N.sum()), int(only_b_N.sum())
        discordant = only_a + only_b
        pairs.append(
            PairedPredictions(
                a=a.job_id,
                b=b.job_id,
                both_wrong=int((a.is_wrong_N & b.is_wrong_N).sum()),
                only_a_wrong=only_a,
                only_b_wrong=only_b,
                p=float(binomtest(only_a, discordant).pvalue) if discordant else 1.0,
                images=(only_a_N | only_b_N).nonzero()[0][:_LISTED_IMAGES].tolist(),
            )
        )
    return pairs


def _read_metadata(content: bytes) -> Mapping[str, str]:
    """Of a safetensors file, whose first 8 bytes are the length of its JSON header.

    The library reads it from files only.
    """
    length = int.from_bytes(content[:8], "little")
    metadata: Mapping[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata

"""Result cards: what a finished training was, on what it ran, and what it attained.

The API signs them. `resnetd verify` checks them, and workers.training.verification the weights.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.specs.protocol import DataChecksum, Percent, Sha256
from service.states import CheckpointPart


class _CardModel(BaseModel):
    """A card of another version has another number: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CardJob(_CardModel):
    id: str
    network: str
    created_at: datetime
    started_at: datetime
    finished_at: datetime
    attempts: Annotated[int, Field(description="the environment below is that of the last one")]
    start_iteration: Annotated[
        int | None, Field(description="of the other job's checkpoint that it started from")
    ]


class CardCode(_CardModel):
    """Null where the training processes did not report it."""

    version: Annotated[str | None, Field(description="of this service")]
    commit: Annotated[
        str | None,
        Field(description="of a git checkout, with `-dirty` if files were changed; null elsewhere"),
    ]
    training_code_sha256: Annotated[
        str | None, Field(description="of workers/training and service/catalog, file by file")
    ]


class CardDataset(_CardModel):
    name: str
    classes: int
    train_images: int
    test_images: int
    checksum: DataChecksum | None


class CardHardware(_CardModel):
    """`device`: the name of the GPU, or cpu. `cpu_capability`: the instructions that torch uses."""

    device: str
    num_workers: int
    machine: str | None
    cpu_capability: str | None
    numerics: Annotated[
        dict[str, str], Field(description="precision, threads, and what else affects rounding")
    ]


class CardTraining(_CardModel):
    iterations: int
    seconds: Annotated[float, Field(description="of training, over all attempts")]
    gpu_energy_joules: Annotated[
        float | None,
        Field(description="from samples of the GPUs' power; null where it was not measured"),
    ]


class CardResult(_CardModel):
    """Errors in percent."""

    test_error: Percent
    wrong_test_images: int
    test_top5_error: Percent | None
    validation_error: Percent | None
    train_error: Percent | None


class CardMetrics(_CardModel):
    sha256: Annotated[Sha256, Field(description="of the bytes of `GET .../metrics?format=csv`")]
    points: int


class CardFile(_CardModel):
    sha256: Sha256
    size_bytes: int


class CardCheckpoint(_CardModel):
    """`wrong_test_images`: null where these weights were not evaluated."""

    id: str
    iteration: int
    test_error: Percent | None
    wrong_test_images: int | None
    files: dict[CheckpointPart, CardFile]


class ResultCard(_CardModel):
    kind: Literal["resnetd-result-card"] = "resnetd-result-card"
    version: Literal[1] = 1
    job: CardJob
    spec: Annotated[dict[str, Any], Field(description="the fields that affect the training")]
    training_key: Annotated[
        Sha256, Field(description="equal for jobs with equal spec, training code and upload")
    ]
    code: CardCode
    packages: dict[str, str]
    dataset: CardDataset
    hardware: CardHardware
    training: CardTraining
    result: CardResult
    metrics: Annotated[
        CardMetrics | None, Field(description="null where the service no longer keeps them")
    ]
    checkpoints: Annotated[
        list[CardCheckpoint], Field(description="the last, and the best if that is another")
    ]


class CardSignature(_CardModel):
    """Of the bytes of `card` as canonical JSON (RFC 8785)."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    key_fingerprint: Annotated[
        Sha256, Field(description="SHA-256 of the public key in DER (SubjectPublicKeyInfo)")
    ]
    value: Annotated[str, Field(description="64 bytes in base64")]


class SignedResultCard(_CardModel):
    card: ResultCard
    signature: CardSignature

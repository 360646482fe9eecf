"""Where the weights of a registered version came from."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.specs.job_spec import StartMode
from service.specs.protocol import DataChecksum, Percent, Sha256


class _LineageModel(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelSource(_LineageModel):
    """What the training began from: a checkpoint of another job, or a file of weights."""

    job: str | None
    checkpoint: str | None
    iteration: int | None
    weights: str | None
    mode: StartMode


class ModelLineage(_LineageModel):
    """As it was known when the version was registered; null where it was not reported.

    The code is that of the job's last attempt until then.
    """

    network: str
    dataset: str
    dataset_checksum: DataChecksum | None
    seed: int
    iteration: int
    test_error: Annotated[Percent | None, Field(description="of these weights")]
    weights_sha256: Sha256
    source: Annotated[ModelSource | None, Field(description="null: new weights")]
    training_key: Annotated[
        Sha256, Field(description="equal for jobs with equal spec, training code and upload")
    ]
    code_version: str | None
    code_commit: Annotated[
        str | None,
        Field(description="of a git checkout, with `-dirty` if files were changed; null elsewhere"),
    ]
    training_code_sha256: Annotated[
        str | None, Field(description="of workers/training and service/catalog, file by file")
    ]

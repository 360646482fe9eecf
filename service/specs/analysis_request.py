"""What `POST /v1/analyses` takes: an analysis of a checkpoint, and how its job runs."""

from typing import Annotated

from pydantic import ConfigDict, Field

from service.specs.analysis_spec import AnalysisSpec
from service.specs.base import MAX_ID_LENGTH, JobId, Name, Seed, Spec
from service.specs.job_spec import Priority, Resources
from service.specs.labels import Tags


class AnalysisRequest(Spec):
    """An analysis of a checkpoint of a job; the rest of its job's spec is that of this job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job": "06cftqknqj1h2fwy",
                    "analysis": {"kind": "evaluation", "test_time_augmentation": "hflip"},
                }
            ]
        }
    )

    job: JobId
    """Id of the job to analyse."""
    checkpoint: Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)] = "best"
    """`newest`, `best` (by `recipe.select_by` of the job), or the id of a checkpoint."""
    analysis: AnalysisSpec
    """Its kind and parameters."""
    dataset: Annotated[str, Field(max_length=120)] | None = None
    """Images to use instead of those that the job was trained on: of the same classes, or for
    predictions of any."""
    resources: Resources | None = None
    """CPUs and GPUs. Null: one worker as the job's."""
    seed: Seed | None = None
    """Seed of what the analysis draws at random. Null: the job's."""
    priority: Priority = 50
    """Higher values start first."""
    name: Name | None = None
    """Display name. Null: kind, network and dataset."""
    tags: Tags = ()
    """Words to filter by."""

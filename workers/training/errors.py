"""Why a training run cannot continue; each error has the reason that its attempt ends with.

The errors travel between processes, so one sentence is all they carry.
"""

from typing import ClassVar

from service.errors import ResnetdError
from service.states import Reason


class TrainingError(ResnetdError):
    """Base of the errors that end a run for a known reason."""

    reason: ClassVar[Reason] = Reason.TRAINING_ERROR


class DatasetMissing(TrainingError):
    """The images are not where this process looks for them."""

    reason = Reason.DATASET_MISSING


class DatasetUnusable(TrainingError):
    """The images exist but cannot be read or do not fit in memory."""

    # Another attempt would read the same images, and this reason is not retried.
    reason = Reason.DATASET_MISSING


class TrainingDiverged(TrainingError):
    """The loss is not finite."""

    reason = Reason.DIVERGED


class CheckpointWriteError(TrainingError):
    """A checkpoint cannot be written to the disk."""

    reason = Reason.DELIVERY_FAILED


class WeightsMismatch(TrainingError):
    """The weights to start from belong to another network."""


class CheckpointMismatch(TrainingError):
    """The checkpoint to resume from belongs to another run."""

    reason = Reason.INTERNAL

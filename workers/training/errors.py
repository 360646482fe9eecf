"""Why a training could not go on, each with the reason that its attempt ends with.

They travel between processes: one sentence is all that an error carries.
"""

from typing import ClassVar

from service.errors import ResnetdError
from service.states import Reason


class TrainingError(ResnetdError):
    """Base of what ends a training for a reason that is known."""

    reason: ClassVar[Reason] = Reason.TRAINING_ERROR


class DatasetMissing(TrainingError):
    """The images are not where this process looks for them."""

    reason = Reason.DATASET_MISSING


class DatasetUnusable(TrainingError):
    """The images are there, but cannot be read or do not fit in memory."""

    # Another attempt would find the same images: the reason must be one that is not retried.
    reason = Reason.DATASET_MISSING


class TrainingDiverged(TrainingError):
    """The loss is not a finite number any more."""

    reason = Reason.DIVERGED


class CheckpointWriteError(TrainingError):
    """The disk does not take a checkpoint."""

    reason = Reason.DELIVERY_FAILED


class WeightsMismatch(TrainingError):
    """The weights to begin with are another network's."""


class CheckpointMismatch(TrainingError):
    """The checkpoint to resume from was left by another training."""

    reason = Reason.INTERNAL

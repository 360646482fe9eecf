import pickle

import pytest

from workers.training import errors
from workers.training.errors import TrainingError


@pytest.mark.parametrize(
    "fault",
    [
        errors.DatasetMissing,
        errors.DatasetUnusable,
        errors.TrainingDiverged,
        errors.CheckpointMismatch,
        TrainingError,
    ],
)
def test_faults_travel_between_processes(fault: type[TrainingError]) -> None:
    received = pickle.loads(pickle.dumps(fault("the loss is nan at iteration 7")))
    assert type(received) is fault
    assert str(received) == "the loss is nan at iteration 7"
    assert received.reason is fault.reason

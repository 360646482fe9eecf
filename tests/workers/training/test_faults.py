import pickle

import pytest

from workers.training import faults
from workers.training.faults import TrainingFault


@pytest.mark.parametrize(
    "fault",
    [
        faults.DatasetMissing,
        faults.DatasetUnusable,
        faults.Diverged,
        faults.CheckpointMismatch,
        TrainingFault,
    ],
)
def test_faults_travel_between_processes(fault: type[TrainingFault]) -> None:
    received = pickle.loads(pickle.dumps(fault("the loss is nan at iteration 7")))
    assert type(received) is fault
    assert str(received) == "the loss is nan at iteration 7"
    assert received.reason is fault.reason

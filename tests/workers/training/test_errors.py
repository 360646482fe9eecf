import pickle

import pytest

from workers.training.errors import TrainingError


@pytest.mark.parametrize("kind", [TrainingError, *TrainingError.__subclasses__()])
def test_errors_can_be_pickled(kind: type[TrainingError]) -> None:
    received = pickle.loads(pickle.dumps(kind("the loss is nan at iteration 7")))
    assert type(received) is kind
    assert str(received) == "the loss is nan at iteration 7"
    assert received.reason is kind.reason

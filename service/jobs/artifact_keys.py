from service.states import CheckpointPart

CHECKPOINT_PREFIX = "checkpoints"


def checkpoint_key(attempt_id: str, iteration: int, part: CheckpointPart, sha256: str) -> str:
    """Where a part lies: no two attempts and no two contents share a key."""
    return f"{CHECKPOINT_PREFIX}/{attempt_id}/{iteration:09d}-{part}-{sha256[:16]}"


def attempt_of_key(key: str) -> str:
    """The id of the attempt that wrote there."""
    return key.split("/")[1]

"""Jobs that have finished and keep predictions, or other parts of a checkpoint."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from service.specs.protocol import CheckpointManifest, PartDigest, TrainingResult
from service.states import CheckpointPart, Reason
from tests.support.api import Api
from tests.support.core import Taken, content, job_id_of


def _predictions(predicted: list[int]) -> bytes:
    labels = np.arange(len(predicted), dtype=np.int32) % 10
    tensors: dict[str, Any] = {
        "labels": labels,
        "predicted": np.array(predicted, dtype=np.int32),
        "logits": np.eye(10, dtype=np.float16)[predicted],
    }
    return save(tensors, {"class_names": json.dumps([str(digit) for digit in range(10)])})


def finish_with_predictions(api: Api, claimed: Taken, predicted: list[int]) -> str:
    """The job's id; its last checkpoint keeps these predictions."""
    return finish_with_parts(api, claimed, {CheckpointPart.PREDICTIONS: _predictions(predicted)})


def finish_with_parts(api: Api, claimed: Taken, parts: Mapping[CheckpointPart, bytes]) -> str:
    """The job's id; its last checkpoint has these parts, and those that each checkpoint has."""
    required = {part: content(part, 20) for part in (CheckpointPart.WEIGHTS, CheckpointPart.STATE)}
    digests = []
    for part, body in (required | dict(parts)).items():
        sha256 = hashlib.sha256(body).hexdigest()
        headers = {"X-Content-SHA256": sha256}
        path = f"/checkpoints/20/{part}"
        response = api.attempt(claimed, "PUT", path, content=body, headers=headers)
        assert response.status_code == 201, response.text
        digests.append(PartDigest(part=part, sha256=sha256, size_bytes=len(body)))
    manifest = CheckpointManifest(iteration=20, test_error=0.0, train_error=0.0, parts=digests)
    assert api.report(claimed, 2, checkpoints=[manifest.model_dump(mode="json")]).is_success
    result = TrainingResult(train_error=0.0, test_error=0.0, training_seconds=1.0)
    api.core.finish(claimed.attempt_id, Reason.COMPLETED, result=result)
    api.core.release(claimed)
    return job_id_of(claimed)

"""The Ray job that requests nodes from Ray's autoscaler, which takes requests over no other way.

Ray keeps the request after this process has ended, until the next one replaces it.
"""

import json
import os

import ray
from ray.autoscaler.sdk import request_resources


def main() -> int:
    bundles = [
        {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
        for cpus, gpus, number in json.loads(os.environ["RESNETD_DEMAND"])
        for _ in range(number)
    ]
    # No address would start a cluster and write to ~/.ray.
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="WARNING")
    request_resources(bundles=bundles)
    return 0

"""The Ray job of `resnetd-server doctor --cluster`: collects the facts of each node in a task.

Prints a line for each node, the head's first, which the command reads from the job's log.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from workers.cluster.doctor import node_facts
from workers.cluster.doctor.answers import NodeAnswer, format_line
from workers.cluster.doctor.node_facts import NodeFacts

# A node starts a process, which imports this package, and reads its data directory.
_TASK_SECONDS = 120.0


def main() -> int:
    # No address would start a cluster and write to ~/.ray.
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), logging_level="WARNING")
    for answer in _collect_all():
        print(format_line(answer), flush=True)  # noqa: T201
    return 0


def _collect_all() -> Iterator[NodeAnswer]:
    # Drivers of Ray jobs run on the head.
    head_id = ray.get_runtime_context().get_node_id()
    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"] != head_id
    )
    task = ray.remote(num_cpus=0, max_retries=0)(_collect)
    running = [
        task.options(
            # Soft: where the node has gone, the task must not wait for it.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        ).remote(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            head_address=nodes[0]["NodeManagerAddress"],
            trains=any(node["Resources"].get(kind, 0) > 0 for kind in ("CPU", "GPU")),
        )
        for node in nodes
    ]
    ready, _ = ray.wait(running, num_returns=len(running), timeout=_TASK_SECONDS)
    for node, reference in zip(nodes, running, strict=True):
        yield _make_answer(node["NodeManagerAddress"], reference, is_ready=reference in ready)


def _make_answer(address: str, reference: Any, *, is_ready: bool) -> NodeAnswer:
    if not is_ready:
        return NodeAnswer(address, None, f"no answer within {_TASK_SECONDS:g} s")
    try:
        facts: NodeFacts | None = ray.get(reference)
    except RayError as error:
        *_, cause = str(error).strip().splitlines() or [type(error).__name__]
        return NodeAnswer(address, None, f"the checks did not run: {cause}")
    if facts is None:
        return NodeAnswer(address, None, "the node left the cluster during the checks")
    return NodeAnswer(address, facts)


def _collect(*, node_id: str, address: str, head_address: str, trains: bool) -> NodeFacts | None:
    """None on another node than the intended one."""
    if ray.get_runtime_context().get_node_id() != node_id:
        return None
    return node_facts.collect(
        address=address,
        head_address=head_address,
        trains=trains,
        api_url=os.environ["RESNETD_API_URL"],
        data_dir=Path(os.environ["RESNETD_DATA_DIR"]),
        work_dir=Path(os.environ["RESNETD_WORK_DIR"]),
    )

"""What the fake service answers with."""

from typing import Any


def job(job_id: str) -> dict[str, Any]:
    """A job that waits in the queue."""
    return {
        "id": job_id,
        "name": "resnet-20-A on digits",
        "network": "resnet-20-A",
        "state": "queued",
        "spec": {"depth": 20, "shortcut": "A", "dataset": "digits", "recipe": {"name": "quick"}},
        "reason": None,
        "message": None,
        "user": "admin",
        "priority": 50,
        "stop_requested": None,
        "created_at": "2026-11-21T12:00:00Z",
        "started_at": None,
        "finished_at": None,
        "attempts": 0,
        "restarts": 0,
        "preemptions": 0,
        "progress": None,
        "parameters": None,
        "result": None,
    }


STATE_AFTER = {
    "hold": "held",
    "release": "queued",
    "pause": "paused",
    "resume": "queued",
    "kill": "cancelled",
}
CHECKPOINT: dict[str, Any] = {
    "id": "c000000000000001",
    "attempt": 1,
    "iteration": 400,
    "created_at": "2026-11-21T12:05:00Z",
    "test_error": 2.5,
    "train_error": 0.4,
    "size_bytes": 2_200_000,
    "parts": {"weights": {"sha256": "0" * 64, "size_bytes": 1_100_000}},
}
ATTEMPT = {"number": 1, "state": "running", "started_at": "2026-11-21T12:00:01Z", "reason": None}
METRICS = {
    "series": {
        "train/loss": {"iterations": [100, 200], "values": [0.5, None]},
        "test/error": {"iterations": [100, 200], "values": [12.0, 9.5]},
    }
}
WAITING = {
    "code": "resources",
    "message": "it needs 4 CPUs, 2 CPUs are free",
    "position": 1,
    "effective_priority": 51.5,
    "starts_p50": "2026-11-21T12:10:00Z",
    "starts_p90": "2026-11-21T12:20:00Z",
}
PLAN: dict[str, Any] = {
    "network": "resnet-20-A",
    "parameters": 269_722,
    "multiply_adds": 40_551_040,
    "memory_bytes": 300_000_000,
    "minutes": {"p50": 2.0, "p90": 3.0},
    "waiting": WAITING,
}
_WEBHOOK = {"id": "w1", "url": "https://example.org/hook", "states": ["failed"], "user": "ann"}
_DELIVERY = {"id": "d1", "payload": {"type": "ping"}, "state": "pending", "tries": 2, "status": 503}
WEBHOOKS: dict[tuple[str, str], Any] = {
    ("POST", "webhooks"): _WEBHOOK | {"secret": "whsec_x"},
    ("GET", "webhooks"): {"webhooks": [_WEBHOOK]},
    ("POST", "ping"): _DELIVERY,
    ("GET", "deliveries"): {"deliveries": [_DELIVERY]},
    ("DELETE", "w1"): {},
}
FIXED: dict[str, Any] = {
    "/v1/queue": {
        "jobs": [
            {
                "job_id": "0f3k000000000001",
                "name": "[b]resnet[/b]",
                "state": "queued",
                "priority": 50,
                "waiting": WAITING,
            }
        ]
    },
    "/v1/datasets": {
        "datasets": [{"name": "digits", "title": "Optical digits", "classes": 10, "height": 8}]
    },
    "/v1/recipes": {
        "recipes": [{"name": "quick", "source": "in small", "fields": {"iterations": 600}}]
    },
    "/v1/cluster": {
        "cpus": 8,
        "gpus": 1,
        "reserved_cpus": 2,
        "reserved_gpus": 0,
        "seen_at": "2026-11-21T12:00:00Z",
    },
}

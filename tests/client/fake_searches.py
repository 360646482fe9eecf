"""What the fake service answers about its only search."""

from typing import Any

SEARCH_ID = "0f3k00000000000s"
TRIALS = [
    {
        "number": number,
        "job_id": f"0f3k00000000000{number}",
        "state": state,
        "reason": reason,
        "params": {"recipe.learning_rate": rate, "shortcut": "A"},
        "values": {"test/error": error},
        "rank": rank,
        "iteration": 20,
        "stop_reason": why,
    }
    for number, state, reason, rate, error, rank, why in (
        (2, "succeeded", "completed", 0.0625, 4.5, 0, None),
        (1, "cancelled", "early-stopped", 0.001, 60.0, 1, "asha stopped it"),
    )
]


def search(state: str) -> dict[str, Any]:
    """A search of two trials, in that state."""
    is_final = state in {"succeeded", "cancelled"}
    return {
        "id": SEARCH_ID,
        "name": "rates",
        "state": state,
        "spec": {"budget": {"trials": 2}},
        "created_at": "2026-11-21T12:00:00Z",
        "finished_at": "2026-11-21T12:01:00Z" if is_final else None,
        "end_reason": "trials" if state == "succeeded" else None,
        "message": "2 trials" if is_final else None,
        "best": TRIALS[:1],
        "counts": {"succeeded": 1, "cancelled": 1},
        "used": {"trials": 2, "iterations": 40, "wall_seconds": 12.5},
    }


# By method and what follows the search's id.
SEARCHES: dict[tuple[str, str], Any] = {
    ("GET", ""): search("succeeded"),
    ("GET", "trials"): {"trials": TRIALS},
    ("GET", "importance"): {
        "importance": {
            "test/error": {"trials": 2, "shares": {"recipe.learning_rate": 0.9, "shortcut": 0.1}}
        }
    },
    ("POST", "pause"): search("paused"),
    ("POST", "resume"): search("queued"),
    ("POST", "cancel"): search("cancelled"),
    ("POST", "extend"): search("queued"),
    ("DELETE", ""): None,
}


def answer(method: str, path: str, query: str) -> Any:
    """KeyError where nothing is there."""
    if path == "/v1/searches":
        return search("queued") if method == "POST" else {"searches": [search("succeeded")]}
    search_id, _, rest = path.removeprefix("/v1/searches/").partition("/")
    if search_id != SEARCH_ID:
        raise KeyError(search_id)
    if rest == "export":
        assert query == "format=csv"
        return "trial,job_id\n2,0f3k000000000002\n"
    return SEARCHES[method, rest]

"""The jobs on several machines."""

from tests.chaos.workload import JobCase

# Some 20 s of training over a bridge on two cores, with checkpoints in between.
TWO_HOSTS = JobCase(
    "two hosts",
    {
        "dataset": "digits",
        "depth": 8,
        "shortcut": "A",
        "name": "two-hosts",
        "recipe": {
            "name": "quick",
            "iterations": 1_500,
            "evaluate_every": 500,
            "checkpoint_every": 100,
        },
        "resources": {"num_workers": 2},
    },
)

# Waits for the end of the other.
WAITING = JobCase(
    "waiting",
    {
        "dataset": "digits",
        "depth": 8,
        "shortcut": "A",
        "name": "waiting",
        "recipe": {"name": "quick", "iterations": 20},
    },
)

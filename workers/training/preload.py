"""Imported by a fork server before it forks several ranks: what their first step imports.

Nothing here may start a thread: a thread would be lost in the fork.
"""

# DistributedDataParallel imports torch's compiler, used or not, for 4 seconds of CPU time.
import torch._dynamo  # noqa: F401

from workers.training import trainer  # noqa: F401

"""What training waits for, where that takes a considerable part of each step."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from service.specs.series import MachineSeries, StepSeries

# Without the wait a training would be at least a third faster: 1 / (1 - 0.25). Less is not worth
# changing a job for.
BINDING_SHARE = 0.25
# A GPU that computes nearly all the time gains nothing from earlier batches: the process that
# launches its kernels waits for them in advance.
BUSY_GPU_PERCENT = 90.0


class BottleneckCode(StrEnum):
    DATA_LOADING = "data-loading"
    SYNCHRONIZATION = "synchronization"


@dataclass(frozen=True)
class Bottleneck:
    code: BottleneckCode
    message: str


def find_bottleneck(newest: Mapping[str, float | None]) -> Bottleneck | None:
    """From the newest value of each series; None where computation dominates or nothing is known.

    >>> newest = {"step/load_seconds": 0.31, "step/compute_seconds": 0.19}
    >>> find_bottleneck(newest).code
    <BottleneckCode.DATA_LOADING: 'data-loading'>
    """
    seconds = {series: newest.get(series) or 0.0 for series in StepSeries}
    total = sum(seconds.values())
    longest_wait = max(StepSeries.LOAD, StepSeries.SYNCHRONIZE, key=seconds.__getitem__)
    if total == 0 or seconds[longest_wait] / total < BINDING_SHARE:
        return None
    share = f"{100 * seconds[longest_wait] / total:.0f} %"
    if longest_wait is StepSeries.SYNCHRONIZE:
        return Bottleneck(
            BottleneckCode.SYNCHRONIZATION,
            f"Waiting for other workers takes {share} of each step: use fewer workers or a larger "
            "recipe.batch_size, and check that no worker's machine is slower or busier than the "
            "others.",
        )
    if (newest.get(MachineSeries.GPU_PERCENT) or 0.0) >= BUSY_GPU_PERCENT:
        return None
    return Bottleneck(
        BottleneckCode.DATA_LOADING,
        f"Data loading takes {share} of each step: raise resources.cpus_per_worker, which also "
        "sets how many processes read images, or store the images smaller and on a faster disk.",
    )

"""Names of the diagnostic series: how fast a training runs and what of, not how well it learns."""

from enum import StrEnum


class StepSeries(StrEnum):
    """Seconds of a step, as means since the last report: together its duration."""

    LOAD = "step/load_seconds"  # waiting for the next batch
    COMPUTE = "step/compute_seconds"  # forward, backward, optimizer, and what is not listed
    SYNCHRONIZE = "step/synchronize_seconds"  # waiting for the gradients of other workers


class MachineSeries(StrEnum):
    """What the processes of an attempt use, about once a second."""

    CPU_PERCENT = "machine/cpu_percent"
    MEMORY_BYTES = "machine/memory_bytes"
    GPU_PERCENT = "machine/gpu_percent"
    GPU_MEMORY_BYTES = "machine/gpu_memory_bytes"
    GPU_POWER_WATTS = "machine/gpu_power_watts"


def is_diagnostic(series: str) -> bool:
    return series.startswith(("step/", "machine/"))

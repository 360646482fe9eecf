"""What this process and its data loaders use of the machine: CPUs, memory, GPU."""

import math
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

# Between two samples. One takes less than a millisecond.
SAMPLE_SECONDS = 1.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MachineSample(NamedTuple):
    """NaN where a value is not known.

    `cpu_percent`: since the last sample; 100 is one busy CPU. `memory_bytes`: resident; a page that
    processes share counts for each. `gpu_percent`: how much of the last second the GPU computed,
    for any process. `gpu_memory_bytes`: held by this process's allocator. `gpu_power_watts`: of the
    GPU.
    """

    cpu_percent: float
    memory_bytes: float
    gpu_percent: float = math.nan
    gpu_memory_bytes: float = math.nan
    gpu_power_watts: float = math.nan


class MachineMeter:
    """`sample` is the last one."""

    def __init__(
        self, device: torch.device, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._device, self._clock = device, clock
        self._sampled_at, self._cpu_seconds = clock(), _read_cpu_seconds()
        self._has_nvml = device.type == "cuda"
        self.sample = MachineSample(math.nan, math.nan)

    def update(self) -> bool:
        """Takes a sample if the last one is older than SAMPLE_SECONDS. Whether it did."""
        now = self._clock()
        elapsed = now - self._sampled_at
        if elapsed < SAMPLE_SECONDS:
            return False
        cpu_seconds = _read_cpu_seconds()
        self.sample = MachineSample(
            # Sums in another order differ by a rounding error, of an idle process below 0.
            max(0.0, 100 * (cpu_seconds - self._cpu_seconds) / elapsed),
            float(sum(map(_read_memory_bytes, ("self", *_list_children())))),
        )
        if self._device.type == "cuda":
            self.sample = self._add_gpu(self.sample)
        self._sampled_at, self._cpu_seconds = now, cpu_seconds
        return True

    def _add_gpu(self, sample: MachineSample) -> MachineSample:
        sample = sample._replace(gpu_memory_bytes=float(torch.cuda.memory_reserved(self._device)))
        if not self._has_nvml:
            return sample
        try:
            return sample._replace(
                gpu_percent=float(torch.cuda.utilization(self._device)),
                gpu_power_watts=torch.cuda.power_draw(self._device) / 1000,
            )
        # torch reads both with the package nvidia-ml-py, which is optional. NVML refuses them on
        # some GPUs and in some containers, with an error of its own class.
        except Exception:  # noqa: BLE001
            self._has_nvml = False
            return sample


def _list_children() -> list[str]:
    """The data loaders of this process."""
    return [str(child.pid) for child in multiprocessing.active_children()]


def _read_cpu_seconds() -> float:
    """Of this process, of its children that live, and of those that have ended."""
    # In this order: the list removes children that have ended, whose time is then in os.times.
    living = sum(map(_read_child_cpu_seconds, _list_children()))
    return living + sum(os.times()[:4])


def _read_child_cpu_seconds(pid: str) -> float:
    """User and system time (proc_pid_stat(5)); 0 where it has ended."""
    try:
        text = Path("/proc", pid, "stat").read_text()
    except OSError:
        return 0.0
    # The name of the process, in parentheses, may have spaces.
    fields = text.rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / _TICKS_PER_SECOND


def _read_memory_bytes(pid: str) -> int:
    """Resident pages (proc_pid_statm(5)); 0 where it has ended."""
    try:
        _, resident, *_ = Path("/proc", pid, "statm").read_text().split()
    except OSError:
        return 0
    return int(resident) * _PAGE_BYTES

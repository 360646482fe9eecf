"""The diagnostic series of a report, over all ranks: where a step's time goes, and the machine."""

import math
from contextlib import AbstractContextManager
from statistics import fmean

from torch import nn

from service.specs.series import MachineSeries, StepSeries
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.machine_meter import MachineMeter
from workers.training.step_timer import StepTimer


class Diagnostics:
    """Measures this rank's steps and processes, and reports those of all ranks.

    Args:
        model: whose gradients the ranks exchange.
        is_resident: all images are on the device, as DataSource.is_resident says.
    """

    def __init__(
        self, model: nn.Module, context: DeviceContext, ranks: RankGroup, *, is_resident: bool
    ) -> None:
        self._ranks = ranks
        self._timer = StepTimer()
        self._machine = MachineMeter(context.device)
        is_gpu = context.device.type == "cuda"
        # A GPU crops its images in kernels that are launched in advance: no batch is waited for.
        self._waits_for_batches = not (is_gpu and is_resident)
        # With NCCL only the GPU waits: to measure it would take two CUDA events in each step.
        self._is_synchronize_known = context.world_size == 1 or not is_gpu
        if context.world_size > 1 and not is_gpu:
            self._timer.watch_gradients(model)

    def loading(self) -> AbstractContextManager[None]:
        """The batch of a step is loaded inside."""
        return self._timer.loading()

    def end_backward(self) -> None:
        """Called when a backward pass has returned."""
        self._timer.end_backward()

    def measure(self, step_seconds: float) -> dict[str, float]:
        """Values by series since the last call. Must be called by all ranks; rank 0 has them all.

        Waits are means over the ranks, so that one slow rank shows wherever it is. Computation is
        the rest of `step_seconds`, the duration of a step: on a GPU it is launching kernels and
        waiting for them. CPU, memory and power are sums over the ranks.
        """
        waits = self._timer.take()
        is_sampled = self._machine.update()
        rows = self._ranks.all_gather_floats([*waits, *self._machine.sample])
        load, synchronize, cpu, memory, gpu, gpu_memory, gpu_power = zip(*rows, strict=True)
        values: dict[str, float] = {
            StepSeries.LOAD: fmean(load) if self._waits_for_batches else 0.0
        }
        if self._is_synchronize_known:
            values[StepSeries.SYNCHRONIZE] = fmean(synchronize)
        values[StepSeries.COMPUTE] = max(0.0, step_seconds - sum(values.values()))
        if is_sampled:
            machine = {
                MachineSeries.CPU_PERCENT: sum(cpu),
                MachineSeries.MEMORY_BYTES: sum(memory),
                MachineSeries.GPU_PERCENT: fmean(gpu),
                MachineSeries.GPU_MEMORY_BYTES: sum(gpu_memory),
                MachineSeries.GPU_POWER_WATTS: sum(gpu_power),
            }
            # Unknown, or a rank has not taken its first sample.
            values |= {name: value for name, value in machine.items() if math.isfinite(value)}
        return values

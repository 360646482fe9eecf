"""Training steps recorded once and replayed as CUDA graphs.

The kernels of a small network take less time than launching them one by one; a graph launches all
of them with one call. It repeats exactly what was recorded: the same kernels on the same memory
with the same numbers. So everything that differs between steps must be in tensors that keep their
memory, and nothing in a step may wait for the device. The first recorded step is compared with the
same step computed normally; if they differ, or recording fails, steps are not replayed.

Shapes: S sums.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from service.states import LogLevel
from workers.training.device_context import DeviceContext
from workers.training.observers import LogFunction, ignore_log

# Steps before recording: what libraries do at first use (choosing algorithms, allocating) must not
# be part of the graph.
WARMUP_STEPS = 3

GRAPH_REPLAYED_MESSAGE = "steps are replayed as one CUDA graph from now on"

# Allowed difference between a replayed and a normal step, relative to the change that the step
# makes to a tensor. Atomic additions differ in the last bits; a stale learning rate or batch
# differs by the complete change.
_STEP_TOLERANCE = 0.05
# Relative to the tensor's norm: float32 is not more precise.
_ROUNDING_TOLERANCE = 1e-5


class GraphableStep(Protocol):
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns sums_S; changes only the state tensors."""

    def state_tensors(self) -> Sequence[Tensor]: ...

    def discard_gradients(self) -> None:
        """Removes what an aborted computation left behind."""


class GraphRecorder(Protocol):
    def side_stream(self) -> AbstractContextManager[None]:
        """Computes inside as during recording, but at once."""

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """A function that replays the computation, and its result tensor. Computes nothing yet.

        RuntimeError if the computation cannot be recorded.
        """


class CudaGraphRecorder:
    def __init__(self, device: torch.device) -> None:
        # High-priority streams come from a pool of their own, so no other code gets this one,
        # whose workspaces the graph refers to.
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Other threads use the device meanwhile: they write checkpoints or decode images.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = compute()
        return graph.replay, result


def make_recorder(context: DeviceContext) -> GraphRecorder | None:
    """None on a CPU, and with several ranks, which communicate within a step."""
    return CudaGraphRecorder(context.device) if context.is_single_gpu else None


class GraphedStep:
    """Computes steps with inputs of constant shapes; records and replays them when possible.

    Keeps no reference to the step, so the graph's memory is freed together with its owner.
    """

    def __init__(self, recorder: GraphRecorder, log: LogFunction = ignore_log) -> None:
        self._recorder: GraphRecorder | None = recorder
        self._log = log
        self._warmup_steps = 0
        self._graph: _Graph | None = None

    def __call__(self, step: GraphableStep, inputs: Sequence[Tensor]) -> Tensor:
        """The step's sums_S, which later calls do not overwrite."""
        if self._graph is not None:
            return self._graph(inputs)
        if self._recorder is None:
            return step.compute(inputs)
        if self._warmup_steps < WARMUP_STEPS:
            self._warmup_steps += 1
            with self._recorder.side_stream():
                return step.compute(inputs)
        return self._record_and_compare(step, inputs, self._recorder)

    def _record_and_compare(
        self, step: GraphableStep, inputs: Sequence[Tensor], recorder: GraphRecorder
    ) -> Tensor:
        """One step both ways, one after the other, since each may need all of the memory."""
        self._recorder = None
        state = [tensor.detach() for tensor in step.state_tensors()]
        before = [tensor.clone() for tensor in state]
        with recorder.side_stream():
            sums_S = step.compute(inputs)
        expected = [tensor.clone() for tensor in state]
        _copy_all(before, state)
        problem = "the recorded step differs from the computed one"
        try:
            graph = _Graph(step, inputs, recorder)
            replayed_S = graph(inputs)
        except RuntimeError as error:  # includes running out of memory
            problem = str(error)
        else:
            triples = [(replayed_S, sums_S, torch.zeros_like(sums_S))]
            triples += zip(state, expected, before, strict=True)
            if bool(torch.stack([_is_close(*triple) for triple in triples]).all()):
                self._graph = graph
                self._log(LogLevel.INFO, GRAPH_REPLAYED_MESSAGE)
                return replayed_S
        step.discard_gradients()
        _copy_all(expected, state)
        self._log(LogLevel.WARNING, f"steps are not replayed as a CUDA graph: {problem}")
        return sums_S


class _Graph:
    def __init__(
        self, step: GraphableStep, inputs: Sequence[Tensor], recorder: GraphRecorder
    ) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._replay, self._result = recorder.record(lambda: step.compute(self._inputs))

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        _copy_all(inputs, self._inputs)
        self._replay()
        return self._result.clone()


def _copy_all(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


def _is_close(replayed: Tensor, expected: Tensor, before: Tensor) -> Tensor:
    """A bool on the device: whether both steps changed `before` to nearly the same value."""
    replayed, expected, before = (tensor.double() for tensor in (replayed, expected, before))
    allowed = _STEP_TOLERANCE * (expected - before).norm() + _ROUNDING_TOLERANCE * expected.norm()
    return torch.le((replayed - expected).norm(), allowed)

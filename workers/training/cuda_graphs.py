"""Steps that are all alike, recorded once and replayed: CUDA graphs.

The kernels of a small network take less time than to start them one by one; a graph starts them
with one call. It repeats what was recorded to the letter: the same kernels, in the same places of
memory, with the same numbers. So whatever differs between two steps lies in tensors that keep
their place, and nothing in a step waits for the device. A graph is believed once it has taken a
step as the step itself is taken; where it has not, or cannot be recorded, steps stay as they are.

Shapes: S sums.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from service.states import LogLevel
from workers.training.device_context import DeviceContext

# Steps taken one kernel at a time before one is recorded: what libraries do at first use only
# (choose algorithms, allocate) must not be in the graph.
WARMUP_STEPS = 3

# Told once steps are.
GRAPH_REPLAYED_MESSAGE = "from now on steps are replayed as one CUDA graph"

# Of the way that a tensor goes in a step: so far may two of the same step lie apart. Sums of
# atomic additions differ in their last bits; a rate or an image that stood still, by all of it.
_TOLERANCE = 0.05
# Of the tensor's own length: its float32 numbers are not better known.
_ROUNDING = 1e-5


class GraphableStep(Protocol):
    """What is done again and again."""

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        """Its sums. All else that it changes is its state."""

    def state(self) -> Sequence[Tensor]: ...

    def forget(self) -> None:
        """Drops what a computation that was left undone has left behind."""


class GraphRecorder(Protocol):
    def apart(self) -> AbstractContextManager[None]:
        """In it work is done as it is while it is recorded, but at once."""

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """What replays the computation, and where its result lies then. Nothing is done yet.

        RuntimeError where it cannot be replayed.
        """


class CudaGraphRecorder:
    def __init__(self, device: torch.device) -> None:
        # Urgent ones are of a pool of their own: nobody else is given this one, whose workspaces
        # a graph remembers.
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    @contextmanager
    def apart(self) -> Iterator[None]:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with the device: they save checkpoints, or decode.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = compute()
        return graph.replay, result


def make_recorder(place: DeviceContext) -> GraphRecorder | None:
    """None where steps are not recorded: on a CPU, and where ranks talk in the middle of them."""
    return CudaGraphRecorder(place.device) if place.is_alone_on_gpu else None


def ignore_log(level: LogLevel, message: str) -> None:
    """For steps that nobody asks about."""


class GraphedStep:
    """Work that is done again and again, with inputs of the same shapes.

    It holds on to no work: who has both is gone, with all memory of a graph, when nobody has him.
    """

    def __init__(
        self, recorder: GraphRecorder | None, log: Callable[[LogLevel, str], None] = ignore_log
    ) -> None:
        self._recorder, self._log = recorder, log
        self._warm_steps = 0
        self._graph: _Graph | None = None

    def __call__(self, work: GraphableStep, inputs: Sequence[Tensor]) -> Tensor:
        """The work's sums_S, which the next call leaves alone."""
        if self._graph is not None:
            return self._graph(inputs)
        if self._recorder is None:
            return work.compute(inputs)
        if self._warm_steps < WARMUP_STEPS:
            self._warm_steps += 1
            with self._recorder.apart():
                return work.compute(inputs)
        return self._try(work, inputs, self._recorder)

    def _try(
        self, work: GraphableStep, inputs: Sequence[Tensor], recorder: GraphRecorder
    ) -> Tensor:
        """One step both ways; each in turn may need all of the device's memory."""
        self._recorder = None
        state = [each.detach() for each in work.state()]
        before = [each.clone() for each in state]
        with recorder.apart():
            sums_S = work.compute(inputs)
        wanted = [each.clone() for each in state]
        _put(before, state)
        graph, why = None, "it took another step than the one recorded"
        try:
            graph = _Graph(work, inputs, recorder)
            replayed_S = graph(inputs)
        except RuntimeError as error:  # out of memory among them
            why = str(error)
        else:
            pairs = [(replayed_S, sums_S, torch.zeros_like(sums_S))]
            pairs += zip(state, wanted, before, strict=True)
            if bool(torch.stack([_is_near(*pair) for pair in pairs]).all()):
                self._graph = graph
                self._log(LogLevel.INFO, GRAPH_REPLAYED_MESSAGE)
                return replayed_S
        work.forget()
        _put(wanted, state)
        self._log(LogLevel.WARNING, f"steps are not replayed as a CUDA graph: {why}")
        return sums_S


class _Graph:
    def __init__(
        self, work: GraphableStep, inputs: Sequence[Tensor], recorder: GraphRecorder
    ) -> None:
        self._inputs = [each.clone() for each in inputs]
        self._replay, self._result = recorder.record(lambda: work.compute(self._inputs))

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        _put(inputs, self._inputs)
        self._replay()
        return self._result.clone()


def _put(values: Sequence[Tensor], places: Sequence[Tensor]) -> None:
    for value, place in zip(values, places, strict=True):
        place.copy_(value)


def _is_near(replayed: Tensor, wanted: Tensor, before: Tensor) -> Tensor:
    """A bool on the device: whether both came from `before` to the same place, or nearly."""
    replayed, wanted, before = (each.double() for each in (replayed, wanted, before))
    allowed = _TOLERANCE * (wanted - before).norm() + _ROUNDING * wanted.norm()
    return torch.le((replayed - wanted).norm(), allowed)

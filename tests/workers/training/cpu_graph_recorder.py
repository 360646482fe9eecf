"""A CUDA graph's rules, on a CPU: what is recorded is a list of operations on places in memory.

A replay does the same operations in the same places with the same numbers: a tensor that was left
behind, a rate that was a number or a choice that was made while recording stays as it was then.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape:
    """A workers.training.graphs.Recorder. `recorded` counts; `skips`: operations left out."""

    def __init__(self, *, skips: Sequence[str] = ()) -> None:
        self._skips = skips
        self.recorded = 0
        self.replayed = 0

    @contextmanager
    def apart(self) -> Iterator[None]:
        yield

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        mode = _Recording()
        with mode:
            result = work()
        mode.undo()
        self.recorded += 1
        operations = [each for each in mode.operations if each[0].__name__ not in self._skips]

        def replay() -> None:
            self.replayed += 1
            with torch.no_grad():
                for operation, args, kwargs, outputs in operations:
                    _again(operation, args, kwargs, outputs)

        return replay, result


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._made: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is torch.ops.aten._local_scalar_dense.default:  # what .item() is
            raise RuntimeError("a recorded step must not wait for the device")
        kwargs = kwargs or {}
        for tensor in _tensors(args, kwargs):
            place = _place(tensor)
            if place not in self._made and place not in self._before:
                self._before[place] = _bytes(tensor), _bytes(tensor).clone()
        result = func(*args, **kwargs)
        outputs = _tensors(result)
        self.operations.append((func, args, kwargs, outputs))
        self._made |= {
            _place(each): _bytes(each) for each in outputs if _place(each) not in self._before
        }
        return result

    def undo(self) -> None:
        """A graph's recording computes nothing yet."""
        for place, before in self._before.values():
            place.copy_(before)
        for place in self._made.values():
            place.fill_(0x7F)


def _again(operation: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
    # What shares memory with an argument is a view of it, or the argument itself.
    given = {_place(each) for each in _tensors(args, kwargs)}
    for output, value in zip(outputs, _tensors(operation(*args, **kwargs)), strict=True):
        if _place(output) not in given:
            output.copy_(value)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensor: Tensor) -> Tensor:
    """All of the memory that it lies in."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def _tensors(*nested: Any) -> list[Tensor]:
    return [each for each in tree_leaves(nested) if isinstance(each, Tensor)]

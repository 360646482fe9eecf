"""The rules of CUDA graphs on a CPU: records a list of operations on fixed memory.

A replay executes the same operations on the same memory with the same numbers: a new tensor, a
learning rate that was a number, or a branch that was taken while recording stay as they were.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class CpuGraphRecorder:
    """A workers.training.cuda_graphs.GraphRecorder that counts; `omit`: operations left out."""

    def __init__(self, *, omit: Sequence[str] = ()) -> None:
        self._omit = omit
        self.num_recorded = 0
        self.num_replayed = 0

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        yield

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        mode = _RecordingMode()
        with mode:
            result = compute()
        mode.undo()
        self.num_recorded += 1
        operations = [entry for entry in mode.operations if entry[0].__name__ not in self._omit]

        def replay() -> None:
            self.num_replayed += 1
            with torch.no_grad():
                for operation, args, kwargs, outputs in operations:
                    _execute(operation, args, kwargs, outputs)

        return replay, result


class _RecordingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._created: dict[int, Tensor] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is torch.ops.aten._local_scalar_dense.default:  # Tensor.item()
            raise RuntimeError("a recorded step must not wait for the device")
        kwargs = kwargs or {}
        for tensor in _list_tensors(args, kwargs):
            address = _address(tensor)
            if address not in self._created and address not in self._before:
                self._before[address] = _memory(tensor), _memory(tensor).clone()
        result = func(*args, **kwargs)
        outputs = _list_tensors(result)
        self.operations.append((func, args, kwargs, outputs))
        self._created |= {
            _address(output): _memory(output)
            for output in outputs
            if _address(output) not in self._before
        }
        return result

    def undo(self) -> None:
        """Recording a graph computes nothing yet."""
        for memory, before in self._before.values():
            memory.copy_(before)
        for memory in self._created.values():
            memory.fill_(0x7F)


def _execute(operation: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
    # An output that shares memory with an argument is a view of it, or the argument itself.
    inputs = {_address(tensor) for tensor in _list_tensors(args, kwargs)}
    for output, value in zip(outputs, _list_tensors(operation(*args, **kwargs)), strict=True):
        if _address(output) not in inputs:
            output.copy_(value)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _memory(tensor: Tensor) -> Tensor:
    """All bytes of the storage that the tensor is part of."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def _list_tensors(*nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]

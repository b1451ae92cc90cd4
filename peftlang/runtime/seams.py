"""Single operations of a module, changed while the module's own Python runs.

torch lets a mode see each operation that it is asked for (``TorchFunctionMode``): in eager code,
and as TorchDynamo and ``torch.export`` trace it. The mode is on while one module's forward runs,
and changes the operations that the program names, each told by the function and by how often the
module asked for it before. Should one of them not be asked for, what was written there did not run,
and the call fails.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class _Local(threading.local):
    """How deep in what adapters do this thread is."""

    def __init__(self) -> None:
        self.depth = [0]


_LOCAL = _Local()


class Unseen:
    """Operations inside of the ``with`` block are the adapters' own: none of the model's.

    A module whose operations are changed one by one holds others, in which adapters act too; their
    operations are neither counted nor changed.
    """

    def __enter__(self) -> None:
        _LOCAL.depth[0] += 1

    def __exit__(self, *_: object) -> None:
        _LOCAL.depth[0] -= 1


At = Callable[[Any, Any, Any], Any]
"""Computes an operation in its place: the function, its operands, those given by name."""


class Seams(TorchFunctionMode):
    """Changes operations.

    Args:
        places: For each function, and each number of it, what computes the operation.
    """

    def __init__(self, places: Sequence[tuple[Callable[[Any], bool], int, At]]) -> None:
        super().__init__()
        self._places = list(places)
        self._counts = [0] * len(self._places)
        self.reached = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        compute = None if _LOCAL.depth[0] else self._meant(func)
        if func is Tensor.unflatten:
            # The one method of `Tensor` in Python that TorchDynamo does not trace under a mode.
            func = torch.unflatten
        if compute is not None:
            return compute(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _meant(self, func: Any) -> At | None:
        found: At | None = None
        for index, (is_meant, number, at) in enumerate(self._places):
            if is_meant(func):
                if self._counts[index] == number:
                    self.reached += 1
                    found = at
                self._counts[index] += 1
        return found

    @property
    def missed(self) -> list[int]:
        """Which of the operations were not asked for."""
        return [i for i, (_, number, _) in enumerate(self._places) if self._counts[i] <= number]


def tensors_of(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors among operands, in order, each once."""
    found: list[Tensor] = []
    for leaf in tree_leaves((tuple(args), dict(kwargs))):
        if isinstance(leaf, Tensor) and not any(leaf is other for other in found):
            found.append(leaf)
    return found

"""Single operations of a module, changed while the module's own Python runs.

torch lets a mode see each operation that it is asked for (``TorchFunctionMode``): in eager code, and as
TorchDynamo and ``torch.export`` trace it. The mode is on while one module's forward runs, and changes
the operations that the program names, each told by the function and by how often the module asked for it
before. Should one of them not be asked for, what was written there did not run, and the call fails.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

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
        compute: At | None = None
        for index, (is_meant, number, at) in enumerate(self._places):
            if is_meant(func):
                if self._counts[index] == number:
                    self.reached += 1
                    compute = at
                self._counts[index] += 1
        if compute is not None:
            return compute(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    @property
    def missed(self) -> list[int]:
        """Which of the operations were not asked for."""
        return [i for i, (_, number, _) in enumerate(self._places) if self._counts[i] <= number]


def tensors_of(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors among operands, in order."""
    return [leaf for leaf in tree_leaves((tuple(args), dict(kwargs))) if isinstance(leaf, Tensor)]

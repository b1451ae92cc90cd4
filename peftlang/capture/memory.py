"""Which values of a recorded graph do not last: the model writes into their memory later."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

OVERWRITTEN = "peftlang_overwritten"
"""Key of ``node.meta``: the first operation that writes into the value's memory after it is made.

The graph's edges do not say so: what reads the value behind that operation, under the name of the
tensor or of a view of it, finds another value.
"""


class Memory:
    """Whose memory is whose, while a model is recorded.

    Two tensors share memory where they have one storage, as the stand-ins that are recorded do.
    """

    def __init__(self) -> None:
        self._held: dict[int, list[Node]] = {}
        self._alive: list[Any] = []

    def made(self, value: Tensor, node: Node) -> None:
        """A node computes a tensor."""
        for storage in storages(value):
            self._held.setdefault(storage._cdata, []).append(node)
            self._alive.append(storage)  # so that no other storage gets its address

    def written(self, into: Iterable[Any], node: Node) -> None:
        """A node writes into some `storages`; of what it makes it is told behind that."""
        for storage in into:
            for other in self._held.pop(storage._cdata, ()):
                other.meta.setdefault(OVERWRITTEN, node)


def storages(value: Any) -> list[Any]:
    """The memories of some tensors, as they are now: an operation may give a tensor another."""
    tensors = (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
    return [storage for storage in map(_storage, tensors) if storage is not None]


def _storage(value: Tensor) -> Any:
    try:
        return value.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None  # A sparse tensor has none.

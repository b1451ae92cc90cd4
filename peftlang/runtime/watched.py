"""A weight that tells when it is used."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


class Watched(Tensor):
    """A weight that was read past its module's forward; it says when something is made of it."""

    peftlang_note: Callable[[], None]

    @staticmethod
    def of(value: Tensor, note: Callable[[], None]) -> Tensor:
        """The same tensor, watched."""
        made = value.as_subclass(Watched)
        made.peftlang_note = note
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        notes: list[Callable[[], None]] = []

        def bare(value: Any) -> Any:
            if not isinstance(value, Watched):
                return value
            notes.append(value.__dict__["peftlang_note"])
            with torch._C.DisableTorchFunctionSubclass():
                return value.as_subclass(Tensor)

        result = func(*tree_map(bare, tuple(args)), **tree_map(bare, kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            for note in notes:
                note()
        return result

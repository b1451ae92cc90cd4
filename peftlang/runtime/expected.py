"""What a recorded graph relies on, as modules that stand in it and look at each call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_flatten, tree_unflatten

from peftlang.diagnostics import PeftError


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, or nothing."""
    return value is None or isinstance(value, bool | int | float | str)


def _another(why: str) -> PeftError:
    return PeftError(
        f"this graph is of another kind of call: {why}",
        code="R538",
        help="make one for this kind of call: peftlang.graph(model, inputs); or call the model",
    )


class Arguments(nn.Module):
    """The arguments of a call, as the graph takes them; gives the tensors in them, each once.

    Args:
        names: Their names.
        values: Those of the recorded call; of tensors, shapes and number types are kept.
    """

    def __init__(self, names: Sequence[str], values: Sequence[Any]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.kinds, self.forms = [], []
        seen: list[Tensor] = []
        for value in values:
            leaves, form = tree_flatten(value)
            self.forms.append(form)
            self.kinds.append([_kind(leaf, seen) for leaf in leaves])

    def forward(self, *values: Any) -> tuple[Tensor, ...]:
        """The tensors among the arguments.

        Raises:
            PeftError: R538, an argument is not as when the graph was recorded.
        """
        found: list[Tensor] = []
        for name, value, kinds, form in zip(
            self.names, values, self.kinds, self.forms, strict=True
        ):
            leaves, own = tree_flatten(value)
            if own != form:
                raise _another(f"`{name}` has another form")
            for leaf, kind in zip(leaves, kinds, strict=True):
                here = _kind(leaf, found)
                if here != kind:
                    raise _another(f"`{name}` is {_said(here)}, and not {_said(kind)}")
        return tuple(found)


def _kind(leaf: Any, seen: list[Tensor]) -> tuple[Any, ...]:
    """What a graph relies on in one value; a tensor that is new is put to those seen."""
    if not isinstance(leaf, Tensor):
        return "value", type(leaf), leaf
    known = next((place for place, other in enumerate(seen) if other is leaf), len(seen))
    if known == len(seen):
        seen.append(leaf)
    return "tensor", known, tuple(leaf.shape), leaf.dtype


def _said(kind: tuple[Any, ...]) -> str:
    if kind[0] == "value":
        return repr(kind[2])
    return f"a tensor {list(kind[2])} of {kind[3]}".replace("torch.", "")


class Read(nn.Module):
    """What the model's Python read of tensors' values, and went by.

    Args:
        name: The function: ``item``, ``__bool__``, ``equal``.
        leaves: Its operands, taken apart; nodes stand for tensors.
        form: Their form.
        answer: What it gave.
    """

    def __init__(self, name: str, leaves: Sequence[Any], form: Any, answer: Any) -> None:
        super().__init__()
        self.name, self.form, self.answer = name, form, answer
        self.leaves = [None if isinstance(leaf, Node) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Node)]

    def forward(self, *tensors: Tensor) -> None:
        """Look whether the model would go the same way.

        Raises:
            PeftError: R538, it would not.
        """
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        function: Any = getattr(Tensor, self.name, None) or getattr(torch, self.name)
        if function(*tree_unflatten(leaves, self.form)) != self.answer:
            raise _another("the model goes another way for the values in its tensors")


class Result(nn.Module):
    """What a model returned, in the form in which it did.

    Args:
        leaves: Its parts; nodes stand for tensors.
        form: Their form.
    """

    def __init__(self, leaves: Sequence[Any], form: Any) -> None:
        super().__init__()
        self.form = form
        self.leaves = [None if isinstance(leaf, Node) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Node)]

    def forward(self, *tensors: Tensor) -> Any:
        """The tensors in that form."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return tree_unflatten(leaves, self.form)

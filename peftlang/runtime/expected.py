"""What a recorded graph relies on, as modules that stand in it and look at each call."""

from __future__ import annotations

import pickle
import warnings
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


class Form:
    """How tensors and plain values are held, as pytrees say it.

    Copied and pickled as bytes: a part of torch's own form warns whenever one is made.
    """

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def __reduce__(self) -> Any:
        return _unpacked, (pickle.dumps(self.spec),)

    def with_leaves(self, leaves: Sequence[Any]) -> Any:
        """What holds these."""
        return tree_unflatten(list(leaves), self.spec)


def _unpacked(packed: bytes) -> Form:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return Form(pickle.loads(packed))  # noqa: S301 -- within what is being unpickled


class Arguments(nn.Module):
    """The arguments of a call, as the graph takes them; gives the tensors in them, each once.

    Args:
        names: Their names.
        values: Those of the recorded call; of tensors, shapes and number types are kept.
    """

    _is_impure = True

    def __init__(self, names: Sequence[str], values: Sequence[Any]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.kinds: list[list[tuple[Any, ...]]] = []
        self.forms: list[Form] = []
        seen: list[Tensor] = []
        for value in values:
            leaves, form = tree_flatten(value)
            self.forms.append(Form(form))
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
            if own != form.spec:
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

    # Nothing reads its result; passes of torch's that drop such operations are to leave it.
    _is_impure = True

    def __init__(self, name: str, leaves: Sequence[Any], form: Any, answer: Any) -> None:
        super().__init__()
        self.name, self.form, self.answer = name, Form(form), answer
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
        if function(*self.form.with_leaves(leaves)) != self.answer:
            raise _another("the model goes another way for the values in its tensors")


class Result(nn.Module):
    """What a model returned, in the form in which it did.

    Args:
        leaves: Its parts; nodes stand for tensors.
        form: Their form.
    """

    def __init__(self, leaves: Sequence[Any], form: Any) -> None:
        super().__init__()
        self.form = Form(form)
        self.leaves = [None if isinstance(leaf, Node) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Node)]

    def forward(self, *tensors: Tensor) -> Any:
        """The tensors in that form."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return self.form.with_leaves(leaves)

"""The tokens of one site on real tensors, as the language sees them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from peftlang.ir.builtins import site as asked
from peftlang.ir.expr import DimValue, Expr, Number, Scalar
from peftlang.ir.method import Method
from peftlang.ir.reach import asking

IDS = (1, 2, 3, 4)
"""Ids of a site's tokens are these and so on again, each row beginning one further."""


def named_ids(
    method: Method, given: Mapping[str, Scalar], sizes: Mapping[str, int]
) -> tuple[int, ...]:
    """Ids that a method's predicates on tokens name, and every other whole number it is given.

    Args:
        method: The method.
        given: Its hyper-parameters, and its adapter's.
        sizes: Sizes of its dimensions.
    """
    calls = asking(method, what=["ids"])
    named = [_whole(arg, sizes) for call in calls for arg in call.args]
    others = given.values() if calls else ()
    return tuple(dict.fromkeys(one for one in (*named, *others) if type(one) is int))


def _whole(expr: Expr, sizes: Mapping[str, int]) -> Scalar | None:
    if isinstance(expr, DimValue):
        return expr.dim.evaluate(sizes)
    return expr.value if isinstance(expr, Number) else None


def ids_of_tokens(rows: int, tokens: int, named: Sequence[int] = ()) -> Tensor:
    """Ids, ``[rows, tokens]``; each row begins one further than the one before.

    Args:
        rows: How many rows.
        tokens: Their length.
        named: Ids that the method looks for; they come first, and at least one other follows.
    """
    count = max(len(IDS), len(set(named)) + 1)
    ids = torch.tensor(list(dict.fromkeys((*named, *IDS)))[:count])
    return ids[(torch.arange(tokens) + torch.arange(rows).unsqueeze(1)) % len(ids)]


def ids_to_look_up(
    rows: int, tokens: int, vocabulary: int, named: Sequence[int], generator: torch.Generator
) -> Tensor:
    """Ids that an embedding of ``vocabulary`` rows is given, ``[rows, tokens]``.

    They are drawn. Those that the method looks for come last in the first row, as far as the
    embedding has them; and all rows begin with the same one, so that a token is seen twice.
    """
    found = torch.randint(vocabulary, (rows, tokens), generator=generator)
    known = [one for one in dict.fromkeys(named) if one < vocabulary][:tokens]
    found[0, tokens - len(known) :] = torch.tensor(known, dtype=found.dtype)
    found[:, 0] = found[0, 0].clone()
    return found


class Tokens(asked.Tokens):
    """What builtins ask of the sequence at a site; there is no padding.

    Args:
        like: A value of the site, ``[batch, tokens, …]``.
        causal: Whether no token sees a later one.
        ids: Each token's id, ``[batch, tokens]``; None for `ids_of_tokens` where none is named.
    """

    def __init__(self, like: Tensor, *, causal: bool, ids: Tensor | None = None) -> None:
        self._like, self._causal = like, causal
        self.ids = ids_of_tokens(*like.shape[:2]) if ids is None else ids

    def token_mask(self, keywords: Mapping[str, Any]) -> Tensor:
        """``[batch, tokens]``: 1 for the first and the last tokens, 0 for others."""
        rows, tokens = self.ids.shape
        at = torch.arange(tokens)
        first, last = int(keywords.get("first", 0)), int(keywords.get("last", 0))
        return self.as_number(((at < first) | (at >= tokens - last)).expand(rows, -1))

    def identified(self, ids: Sequence[Any]) -> Tensor:
        """``[batch, tokens]``: whether a token has one of these ids; a text is the id 1."""
        wanted = torch.tensor([1 if isinstance(one, str) else int(one) for one in ids])
        return torch.isin(self.ids, wanted)

    def as_number(self, marks: Tensor) -> Tensor:
        """Booleans in the number type of the site."""
        return marks.to(self._like.dtype)

    def soft(self, count: int) -> Tensor:
        """``[batch, tokens, count]``: the first tokens are the soft ones."""
        rows, tokens = self.ids.shape
        return self.as_number(torch.eye(tokens, count).expand(rows, -1, -1))

    def real(self) -> None:
        """No token is padding."""

    def causal(self) -> bool:
        """Whether no token sees a later one."""
        return self._causal

    def grid(self) -> tuple[int, int, int, int]:
        """One token, and then patches in two columns; what is left over comes after them."""
        tokens = self.ids.shape[1]
        if tokens < 3:
            return 0, tokens, 1, 0
        patches = (tokens - 1) // 2 * 2
        return 1, patches // 2, 2, tokens - 1 - patches

    def by_row(self, value: Tensor) -> Tensor:
        """Values have batch and tokens in front already."""
        return value

    def as_given(self, value: Tensor) -> Tensor:
        """The inverse of ``by_row``."""
        return value

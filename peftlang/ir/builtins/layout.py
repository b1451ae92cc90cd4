"""Laying operands out by name: what a meaning does before it computes."""

from collections.abc import Iterator, Sequence
from typing import Any

from peftlang.ir.builtins.table import Evaluation
from peftlang.ir.types import Level, Type


def laid_out(value: Any, have: Type, want: Type) -> Any:
    """Return ``value`` with its dimensions in the order of ``want``, absent ones of size 1.

    Numbers, and values with the same dimensions, pass unchanged. An example-level value
    meets a token-level one by a sequence dimension of size 1 after the batch.
    """
    if isinstance(value, (int, float, bool)):
        return value
    if have.dims and have.dims != want.dims:
        value = _reordered(value, have, want)
        # From the last to the first: what lies to the right is in place already.
        for position in reversed(range(len(want.dims))):
            if want.dims[position] not in have.dims:
                value = value.unsqueeze(position - len(want.dims))
    elif not have.dims and want.dims and have.level is not Level.CONST:
        for _ in want.dims:
            value = value.unsqueeze(-1)
    if have.level is Level.EXAMPLE and want.level is Level.TOKEN:
        value = value.unsqueeze(1)
    return value


def _reordered(value: Any, have: Type, want: Type) -> Any:
    order = [d for d in want.dims if d in have.dims]
    current = list(have.dims)
    for target, dim in enumerate(order):
        source = current.index(dim)
        if source != target:
            count = len(current)
            value = value.movedim(source - count, target - count)
            current.insert(target, current.pop(source))
    return value


def met(left: Any, right: Any, a: Type, b: Type) -> tuple[Any, Any]:
    """Two operands whose implicit dimensions line up, whatever their levels."""
    if (a.level, b.level) == (Level.EXAMPLE, Level.TOKEN):
        left = left.unsqueeze(1)
    elif (a.level, b.level) == (Level.TOKEN, Level.EXAMPLE):
        right = right.unsqueeze(1)
    return left, right


def elementwise(call: Evaluation) -> list[Any]:
    """Every operand laid out for the call's result."""
    return [laid_out(v, t, call.result) for v, t in zip(call.args, call.types, strict=True)]


def axes(have: Type, over: tuple[Any, ...]) -> list[int]:
    """Positions, counted from the end, of the dimensions ``over`` (all when empty)."""
    if not over:
        return list(range(-len(have.dims), 0))
    return [have.dims.index(dim) - len(have.dims) for dim in over]


def pieces(value: Any, sizes: Sequence[int], axis: int) -> Iterator[Any]:
    """Consecutive parts of ``value`` along ``axis``, of these sizes."""
    start = 0
    for size in sizes:
        yield value.narrow(axis, start, size)
        start += size

"""Signs: which elements of a result cannot be zero, or negative, from what its operands are.

A division is defined where the divisor has no zero, a logarithm where its operand is positive. Each
rule says what holds for certain, or almost surely of numbers that are drawn at random.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.builtins.table import Sign
from peftlang.ir.expr import Apply


class Signs(NamedTuple):
    """What is known of the elements of a tensor.

    Attributes:
        nonzero: No element is zero.
        not_negative: No element is below zero.
        full: No row is all zeros: as of a weight, or of what is drawn at random.
    """

    nonzero: bool = False
    not_negative: bool = False
    full: bool = False

    @property
    def positive(self) -> bool:
        return self.nonzero and self.not_negative

    def are(self, sign: Sign) -> bool:
        """Whether they are as the table of builtins asks."""
        nonzero = self.nonzero or sign in ("", "not negative")
        return nonzero and (self.not_negative or sign in ("", "nonzero"))


def signs(call: Apply, args: Sequence[Signs], *, square: bool = False) -> Signs:
    """The signs of the result of a call.

    Args:
        call: A builtin, applied.
        args: The signs of its operands.
        square: Whether its two operands are the same.
    """
    entry = BUILTINS[call.op]
    if call.op in _RULES:
        return _RULES[call.op](args)
    if call.op in ("*", "/"):
        together = _all(args)
        full = any(a.full and b.nonzero for a, b in (args, args[::-1]))
        return Signs(together.nonzero, together.not_negative or (square and call.op == "*"), full)
    if call.op in ("sum", "mean", "max", "norm"):
        return _reduced(call, args[0])
    if entry.rearranges:
        return _all(args)
    return Signs(entry.sign in ("nonzero", "positive"), entry.sign in ("not negative", "positive"))


def _all(args: Sequence[Signs]) -> Signs:
    """What every operand is."""
    return Signs(*(all(column) for column in zip(*args, strict=True)))


def _reduced(call: Apply, operand: Signs) -> Signs:
    """Where nothing is negative, one element that is not zero is enough.

    Of the k largest along a dimension some are left along it, but not along others.
    """
    below = call.args[0]
    few = isinstance(below, Apply) and below.op in ("topk", "chosen") and below.over != call.over
    some = operand.nonzero or (operand.full and not few)
    not_negative = operand.not_negative or call.op == "norm"
    return Signs(some and not_negative, not_negative, full=False)


def _contracted(args: Sequence[Signs]) -> Signs:
    not_negative = all(arg.not_negative for arg in args)
    some = any(a.full and b.positive for a, b in (args, args[::-1]))
    return Signs(not_negative and some, not_negative)


def _chosen(args: Sequence[Signs]) -> Signs:
    return Signs(nonzero=False, not_negative=True, full=True)


_RULES: dict[str, Callable[[Sequence[Signs]], Signs]] = {
    "@": _contracted,
    "+": lambda args: Signs(
        all(arg.not_negative for arg in args) and any(arg.nonzero for arg in args),
        all(arg.not_negative for arg in args),
    ),
    "**": lambda args: Signs(args[0].nonzero, args[0].positive),
    "neg": lambda args: args[0]._replace(not_negative=False),
    "abs": lambda args: args[0]._replace(not_negative=True),
    "sqrt": lambda args: args[0]._replace(not_negative=True),
    "chosen": _chosen,
    "topk": lambda args: Signs(not_negative=args[0].not_negative, full=args[0].positive),
    "triangular": lambda args: Signs(not_negative=args[0].not_negative, full=args[0].positive),
    "diag": lambda args: Signs(not_negative=args[0].not_negative, full=args[0].positive),
    "self_attention": lambda args: args[2]._replace(full=False),
}
"""Of the builtins whose result's signs depend on how they compute."""

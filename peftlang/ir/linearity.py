"""Which expressions are affine in a hidden state: the ground on which merging stands.

An expression is affine in some names when it is a constant plus a linear map of them, with
everything else held fixed. The analysis is exact in one direction: what it calls affine is; what
it does not may still be, in a way that no rule of the table shows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from peftlang.ir.builtins import BUILTINS, Builtin
from peftlang.ir.expr import Apply, Expr, Ref, children, postorder
from peftlang.ir.types import Level


class Degree(IntEnum):
    """How an expression depends on the names in question."""

    CONSTANT = 0
    AFFINE = 1
    OTHER = 2


@dataclass(frozen=True)
class Dependence:
    """The result of the analysis.

    Attributes:
        degree: How the expression depends on the names.
        reason: For ``OTHER``, what stands in the way, in the user's terms.
        culprit: The node where it is lost.
    """

    degree: Degree
    reason: str = ""
    culprit: Expr | None = None


CONSTANT = Dependence(Degree.CONSTANT)
AFFINE = Dependence(Degree.AFFINE)


def dependence(expr: Expr, names: Iterable[str]) -> Dependence:
    """How ``expr`` depends on the tensors ``names``, in eval mode.

    Args:
        expr: Any expression; hyper-parameters need not be fixed.
        names: Names of hidden states, e.g. ``{"x", "h"}``.
    """
    wanted = frozenset(names)
    known: dict[int, Dependence] = {}
    for node in postorder(expr):
        if isinstance(node, Ref):
            known[id(node)] = AFFINE if node.name in wanted else _other_ref(node)
        elif isinstance(node, Apply):
            known[id(node)] = _applied(node, known)
        else:
            known[id(node)] = CONSTANT
    return known[id(expr)]


def _other_ref(node: Ref) -> Dependence:
    """A name that is not in question: fixed, unless it differs from token to token or call."""
    if node.type.level is Level.CONST:
        return CONSTANT
    what = "is supplied with each call" if node.type.level is Level.EXAMPLE else "is not the site's"
    return Dependence(Degree.OTHER, f"it reads `{node.name}`, which {what}", node)


def _applied(node: Apply, known: dict[int, Dependence]) -> Dependence:
    operands = [known[id(child)] for child in children(node)]
    for operand in operands:
        if operand.degree is Degree.OTHER:
            return operand
    varying = [i for i, operand in enumerate(operands) if operand.degree is Degree.AFFINE]
    if not varying:
        return CONSTANT if node.type.level is Level.CONST else _position_dependent(node)
    if node.is_hyper:
        return Dependence(Degree.OTHER, f"`{node.op}` may be any function", node)
    reason = _why_not(BUILTINS[node.op], varying)
    return Dependence(Degree.OTHER, f"`{node.op}` {reason}", node) if reason else AFFINE


def _why_not(entry: Builtin, varying: list[int]) -> str:
    """What keeps a function of these operands from being affine in a token's hidden state."""
    if entry.asks and entry.reads != "own":
        return "reads other tokens than its own"
    if not set(varying) <= set(entry.linear):
        return "is not linear"
    if len(varying) > 1 and not entry.jointly:
        return "multiplies two parts that both vary"
    return ""


def _position_dependent(node: Apply) -> Dependence:
    """A token-level value that reads no hidden state: it differs from position to position."""
    if any(child.type.level is not Level.CONST for child in children(node)):
        return CONSTANT
    return Dependence(Degree.OTHER, f"`{node.op}` differs from token to token", node)

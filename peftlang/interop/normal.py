"""A normal form of expressions, in which equal mathematics mostly looks equal.

Sums are lists of terms; a term is plain numbers, factors above the line, and factors below it.
Numbers are pulled out of products and of ``@``. What is Ref-free and has no dimensions is a number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Expr, Number, Ref, names, postorder


@dataclass(frozen=True, eq=False)
class Leaf:
    """A tensor by name."""

    name: str


@dataclass(frozen=True, eq=False)
class Node:
    """A builtin applied to sums."""

    op: str
    args: tuple["Sum", ...]
    keywords: tuple[tuple[str, "Sum"], ...]
    over: tuple[Dim, ...]


Numbers: TypeAlias = tuple[tuple[Expr, int], ...]
"""Scalar expressions, each with the power 1 or -1."""


@dataclass(frozen=True, eq=False)
class Term:
    """Numbers, times factors, divided by factors."""

    numbers: Numbers = ()
    above: tuple["Factor", ...] = ()
    below: tuple["Factor", ...] = ()


@dataclass(frozen=True, eq=False)
class Sum:
    """Terms that are added."""

    terms: tuple[Term, ...]


Factor: TypeAlias = Leaf | Node | Sum

_MINUS = Number(-1.0)


def normal_form(root: Expr, dropped: Mapping[int, bool] | None = None) -> Sum:
    """The normal form of an expression.

    Args:
        root: A typed expression.
        dropped: Identities of ``dropout`` nodes that are to be left out, with what they do.
    """
    done: dict[int, Sum] = {}
    for node in postorder(root):
        done[id(node)] = _form(node, done, dropped or {})
    return done[id(root)]


def is_number(expr: Expr) -> bool:
    """Whether an expression is a plain number at each site: no tensor in it, no dimensions."""
    return not expr.type.dims and not names(expr)


def _form(node: Expr, done: Mapping[int, Sum], dropped: Mapping[int, bool]) -> Sum:
    if is_number(node):
        return Sum((Term(((node, 1),)),))
    if isinstance(node, Ref):
        return Sum((Term(above=(Leaf(node.name),)),))
    assert isinstance(node, Apply)
    args = tuple(done[id(arg)] for arg in node.args)
    if node.op == "identity" or dropped.get(id(node)):
        return args[0]
    rule = _RULES.get(node.op)
    if rule is not None:
        return rule(*args)
    keywords = tuple((key, done[id(value)]) for key, value in node.keywords)
    return Sum((Term(above=(Node(node.op, args, keywords, node.over),)),))


def _negative(value: Sum) -> Sum:
    return Sum(tuple(_times(term, ((_MINUS, 1),)) for term in value.terms))


def _contracted(left: Sum, right: Sum) -> Sum:
    one, numbers = _stripped(left)
    other, more = _stripped(right)
    return Sum((Term(numbers + more, (Node("@", (one, other), (), ()),)),))


def _times(term: Term, numbers: Numbers) -> Term:
    return Term(term.numbers + numbers, term.above, term.below)


def _product(left: Sum, right: Sum) -> Term:
    one, other = _one_term(left), _one_term(right)
    return Term(one.numbers + other.numbers, one.above + other.above, one.below + other.below)


def _one_term(value: Sum) -> Term:
    return value.terms[0] if len(value.terms) == 1 else Term(above=(value,))


def _inverse(value: Sum) -> Sum:
    term = _one_term(value)
    numbers = tuple((number, -power) for number, power in term.numbers)
    return Sum((Term(numbers, term.below, term.above),))


def _stripped(value: Sum) -> tuple[Sum, Numbers]:
    """An operand of ``@`` without its numbers, and the numbers."""
    if len(value.terms) != 1:
        return value, ()
    term = value.terms[0]
    return Sum((Term((), term.above, term.below),)), term.numbers


_RULES: dict[str, Callable[..., Sum]] = {
    "+": lambda a, b: Sum(a.terms + b.terms),
    "-": lambda a, b: Sum(a.terms + _negative(b).terms),
    "neg": _negative,
    "*": lambda a, b: Sum((_product(a, b),)),
    "/": lambda a, b: Sum((_product(a, _inverse(b)),)),
    "@": _contracted,
}

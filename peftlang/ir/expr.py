"""Expressions: an immutable DAG whose nodes carry their named dimensions."""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from peftlang.ir.dims import Dim
from peftlang.ir.types import SCALAR, Type

Scalar: TypeAlias = int | float | bool | str
SpanPair: TypeAlias = tuple[int, int]


@dataclass(frozen=True, eq=False, slots=True)
class Number:
    """A literal, or a hyper-parameter once its value is fixed."""

    value: Scalar
    type: Type = SCALAR
    span: SpanPair | None = None


@dataclass(frozen=True, eq=False, slots=True)
class DimValue:
    """A dimension used as a number, an integer hyper-parameter included: ``alpha / r``."""

    dim: Dim
    type: Type = SCALAR
    span: SpanPair | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Hyper:
    """A hyper-parameter that is not an integer: float, bool, str."""

    name: str
    type: Type = SCALAR
    span: SpanPair | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Ref:
    """A tensor by name: a parameter, a buffer, an input, or a value of the site (x, h, W …)."""

    name: str
    type: Type
    span: SpanPair | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Apply:
    """A builtin applied to expressions.

    Attributes:
        op: Name in the table of builtins, or the name of an ``fn`` hyper-parameter when
            ``is_hyper``; fixing the arguments replaces it by the builtin's name.
        args: Tensor and number operands, in order.
        keywords: Named arguments, each an expression.
        over: The dimensions that a reduction or normalisation works over.
    """

    op: str
    args: tuple["Expr", ...]
    type: Type
    keywords: tuple[tuple[str, "Expr"], ...] = ()
    over: tuple[Dim, ...] = ()
    is_hyper: bool = False
    span: SpanPair | None = field(default=None)

    def keyword(self, name: str) -> "Expr | None":
        return next((value for key, value in self.keywords if key == name), None)


Expr: TypeAlias = Number | DimValue | Hyper | Ref | Apply


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct operands of ``expr``, named arguments last."""
    if isinstance(expr, Apply):
        return expr.args + tuple(value for _, value in expr.keywords)
    return ()


def postorder(
    *roots: Expr, done: Container[int] = (), below: Callable[[Expr], tuple[Expr, ...]] = children
) -> Iterator[Expr]:
    """Every node below ``roots`` once, operands before what uses them; never recursive.

    Args:
        roots: Where to start.
        done: Identities of nodes to leave out, with all that only they use.
        below: What stands below a node, where that is not its operands.
    """
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif id(node) not in seen and id(node) not in done:
            seen.add(id(node))
            under = below(node)
            if under:
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(under))
            else:
                yield node


def names(*roots: Expr) -> frozenset[str]:
    """Names of every tensor that the expressions read."""
    return frozenset(node.name for node in postorder(*roots) if isinstance(node, Ref))


class Rewriter:
    """Rebuilds expressions bottom-up, keeping shared nodes shared.

    Args:
        rule: Given a node whose operands are already rebuilt, the node to put in its place.
    """

    def __init__(self, rule: Callable[[Expr], Expr]) -> None:
        self._rule = rule
        self._done: dict[int, Expr] = {}
        self._kept: list[Expr] = []

    def __call__(self, root: Expr) -> Expr:
        for node in postorder(root, done=self._done):
            self._kept.append(node)
            self._done[id(node)] = self._rule(self._rebuild(node))
        return self._done[id(root)]

    def _rebuild(self, node: Expr) -> Expr:
        if not isinstance(node, Apply):
            return node
        args = tuple(self._done[id(a)] for a in node.args)
        keywords = tuple((k, self._done[id(v)]) for k, v in node.keywords)
        same = all(a is b for a, b in zip(args, node.args, strict=True)) and all(
            a[1] is b[1] for a, b in zip(keywords, node.keywords, strict=True)
        )
        return node if same else replace(node, args=args, keywords=keywords)


def substitute(values: Mapping[str, Scalar]) -> Rewriter:
    """A rewriter that fixes hyper-parameters: floats, strings and functions.

    Integer hyper-parameters stay symbolic inside dimensions; they are bound with the site's
    own sizes when the expression is evaluated.
    """

    def rule(node: Expr) -> Expr:
        if isinstance(node, Hyper) and node.name in values:
            return Number(values[node.name], node.type, node.span)
        if isinstance(node, Apply) and node.is_hyper and node.op in values:
            return replace(node, op=str(values[node.op]), is_hyper=False)
        return node

    return Rewriter(rule)

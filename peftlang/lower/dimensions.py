"""Shapes: expressions of the syntax tree as dimensions."""

from collections.abc import Callable, Iterable

from peftlang.diagnostics import did_you_mean
from peftlang.ir.dims import MAX_COEFFICIENT, Dim, TooComplex
from peftlang.ir.positions import NUMBERS_OF_SITES, SITE_DIMS
from peftlang.lower.report import Fault, every
from peftlang.lower.scope import Scope
from peftlang.lower.walk import fold
from peftlang.syntax import nodes as n

UNSIZED = frozenset({"keys", "tokens", "batch"})
"""Dimensions that differ from call to call, so that no tensor of a method can have them."""

_OPERATIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "+": Dim.__add__,
    "-": Dim.__sub__,
    "*": Dim.__mul__,
    "/": Dim.__truediv__,
}


def read_dim(expr: n.Expr, scope: Scope, *, sized: bool = False) -> Dim:
    """The dimension that an expression is.

    Args:
        expr: What is written.
        scope: What names stand for.
        sized: Whether sizes that differ from call to call are refused.

    Raises:
        Fault: T203, T205, T211, T212, T213: it is none.
    """
    try:
        return fold(expr, lambda node, below: _dim(node, below, scope, sized))
    except TooComplex as error:
        raise Fault("T213", "this dimension is too complex", expr) from error
    except ZeroDivisionError as error:
        raise Fault("T213", "this divides by zero", expr) from error


def read_shape(dims: Iterable[n.Expr], scope: Scope) -> tuple[Dim, ...]:
    """The shape of a tensor, whose sizes are the same in every call.

    Raises:
        Faults: one of them is no dimension, or T205, less than 1.
    """

    def read(expr: n.Expr) -> Dim:
        dim = read_dim(expr, scope, sized=True)
        if dim.constant is not None and dim.constant < 1:
            raise Fault("T205", f"a size is at least 1, and this is {dim}", expr)
        return dim

    return tuple(every(read, dims))


def _dim(node: n.Expr, below: list[Dim], scope: Scope, sized: bool) -> Dim:
    match node:
        case n.Number():
            if isinstance(node.value, float):
                raise Fault("T205", f"a size is a whole number, and this is {node.text}", node)
            if node.value > MAX_COEFFICIENT:
                raise Fault("T212", "this number is too large for a size", node)
            return Dim.of(node.value)
        case n.Name():
            return _named(node, scope, sized)
        case n.Unary():
            return -below[0]
        case n.Binary(op="**"):
            return _power(node, *below)
        case n.Binary() if node.op in _OPERATIONS:
            return _OPERATIONS[node.op](*below)
    raise Fault("T211", "a shape is made of whole numbers, dimensions and `+ - * /`", node)


def _named(node: n.Name, scope: Scope, sized: bool) -> Dim:
    name, unsized = node.text, UNSIZED | scope.sequences
    if name in scope.sizes and not (sized and name in unsized):
        return scope.sizes[name]
    refused = unsized | NUMBERS_OF_SITES if sized else frozenset()
    if name in SITE_DIMS - refused:
        return Dim.of(name)
    known = sorted({*scope.sizes, *SITE_DIMS} - refused)
    message, what = f"`{name}` is not a dimension", scope.declared.variable(name)
    if name in unsized:
        message = f"`{name}` differs from call to call, so no tensor can have its size"
    elif name in NUMBERS_OF_SITES:
        message += f"; it is which of the `{name}s` a site is at, counted from 0"
    elif what is not None:
        message += f"; it is {what}"
    raise Fault("T203", message, node, help=did_you_mean(name, known))


def _power(node: n.Binary, base: Dim, exponent: Dim) -> Dim:
    if exponent.constant is None or not 0 <= exponent.constant <= 8:
        raise Fault("T205", "the power of a dimension is a whole number from 0 to 8", node.right)
    return base**exponent.constant


def in_brackets(dims: Iterable[Dim]) -> str:
    """Dimensions as they are written: ``[r, d_x]``."""
    return f"[{', '.join(map(str, dims))}]"

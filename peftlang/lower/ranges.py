"""Checks that need the values of hyper-parameters: sizes, divisions, probabilities."""

import math
import operator
from collections.abc import Callable, Mapping

from peftlang.ir.dims import Dim, Indivisible, Quotient, TooComplex, UnboundDim
from peftlang.ir.expr import Apply, DimValue, Expr, Number, Scalar, postorder
from peftlang.ir.method import Method
from peftlang.ir.sizes import too_many
from peftlang.lower.report import Place, Report


def check_sizes(method: Method, args: Mapping[str, Scalar], place: Place, report: Report) -> bool:
    """Report sizes that these arguments make impossible (T205, T206); True when there are none.

    Args:
        method: With its arguments not yet fixed.
        args: Value of every hyper-parameter.
        place: What to point at.
        report: Takes what is wrong.
    """
    sizes = {name: value for name, value in args.items()
             if isinstance(value, int) and not isinstance(value, bool)}  # fmt: skip
    before = report.errors
    shapes = [(f"`{t.name}`", dim) for t in method.tensors for dim in t.dims]
    shapes += [(f"`{i.name}`", dim) for i in method.inputs
               for dim in (*i.dims, *((i.limit,) if i.limit else ()))]  # fmt: skip
    for what, dim in shapes:
        fault = _fault(dim, sizes)
        if fault is not None:
            code, message = fault
            given = ", ".join(f"`{s} = {sizes[s]}`" for s in sorted(dim.symbols & set(sizes)))
            where = f"in the shape of {what}, with {given}," if given else f"in the shape of {what}"
            report.error(code, f"{where} {message}", place)
            break
    return report.errors == before


def _fault(dim: Dim, sizes: Mapping[str, int]) -> tuple[str, str] | None:
    try:
        known = dim.substitute(sizes)
        for quotient in _quotients(known):
            _check_quotient(quotient)
        if not known.symbols and known.evaluate({}) < 1:
            return "T205", f"`{dim}` is {known.evaluate({})}"
    except Indivisible as fact:
        return "T206", f"{fact.top} is not divisible by {fact.bottom}"
    except (ZeroDivisionError, UnboundDim):
        return "T205", f"`{dim}` divides by zero"
    except TooComplex:
        return "T205", f"`{dim}` is too large"
    if known.terms and all(coefficient < 0 for _, coefficient in known.terms):
        return "T205", f"`{dim}` is negative"
    return ("T205", f"`{dim}` is 0") if not known.terms else None


def _quotients(dim: Dim) -> list[Quotient]:
    return [atom for monomial, _ in dim.terms for atom, _ in monomial
            if isinstance(atom, Quotient)]  # fmt: skip


def _check_quotient(quotient: Quotient) -> None:
    if not quotient.numerator.symbols and not quotient.denominator.symbols:
        Dim(((((quotient, 1),), 1),)).evaluate({})


def check_numbers(method: Method, args: Mapping[str, Scalar], place: Place, report: Report) -> bool:
    """Report divisions by zero and impossible probabilities (T212); True when there are none.

    Args:
        method: With its arguments fixed.
        args: Value of every hyper-parameter.
        place: What to point at where an expression has no place of its own.
        report: Takes what is wrong.
    """
    sizes = {name: value for name, value in args.items()
             if isinstance(value, int) and not isinstance(value, bool)}  # fmt: skip
    known: dict[int, float] = {}
    before = report.errors
    for node in postorder(*_roots(method)):
        value = _number(node, known, sizes)
        if value is not None:
            known[id(node)] = value
        if isinstance(node, Apply):
            _check_apply(node, known, place, report)
            _check_most(node, sizes, place, report)
    return report.errors == before


def _roots(method: Method) -> list[Expr]:
    roots: list[Expr] = [c.value for c in method.compositions] + list(method.penalties)
    for tensor in method.tensors:
        roots += [*tensor.init.args, *(value for _, value in tensor.init.keywords)]
        if tensor.init.expression is not None:
            roots.append(tensor.init.expression)
    return roots


def _number(node: Expr, known: Mapping[int, float], sizes: Mapping[str, int]) -> float | None:
    if isinstance(node, Number) and not isinstance(node.value, str):
        return float(node.value)
    if isinstance(node, DimValue) and node.dim.symbols <= set(sizes):
        try:
            return float(node.dim.evaluate(sizes))
        except Indivisible:
            return None
    if isinstance(node, Apply) and not node.type.dims:
        args = [known.get(id(arg)) for arg in node.args]
        values = [value for value in args if value is not None]
        if len(values) == len(args):
            return _arithmetic(node.op, values)
    return None


_MEANINGS: dict[str, Callable[..., float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "neg": operator.neg, "sqrt": math.sqrt,
}  # fmt: skip


def _arithmetic(op: str, values: list[float]) -> float | None:
    try:
        return _MEANINGS[op](*values) if op in _MEANINGS else None
    except (ZeroDivisionError, ValueError, OverflowError):
        return None


def _check_apply(node: Apply, known: Mapping[int, float], place: Place, report: Report) -> None:
    if node.op == "/" and known.get(id(node.args[1])) == 0:
        report.error("T212", "with these arguments the expression divides by zero", place)
    elif node.op == "sqrt" and known.get(id(node.args[0]), 0.0) < 0:
        report.error("T212", "with these arguments the expression takes the root of a negative "
                     "number", place)  # fmt: skip
    elif node.op == "dropout":
        probability = known.get(id(node.args[1]), 0.0)
        if not 0 <= probability < 1:
            report.error("T212", "a dropout probability is at least 0 and below 1, and this is "
                         f"{probability:g}", place)  # fmt: skip


def _check_most(node: Apply, sizes: Mapping[str, int], place: Place, report: Report) -> None:
    excess = too_many(node, sizes)
    if excess is not None:
        report.error("T212", f"`{node.op}` {excess}", place)

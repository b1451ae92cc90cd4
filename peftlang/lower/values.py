"""Hyper-parameters: evaluating defaults and arguments, and fitting them to their types."""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.builtins.numbers import NUMBERS
from peftlang.ir.expr import Scalar
from peftlang.lower.report import Place, Report
from peftlang.lower.tree import operands, walk
from peftlang.syntax import nodes as n

LARGEST = 2**53
"""Whole numbers beyond this are refused, so that every one is exact as a float too."""

ACTIVATIONS = frozenset(name for name, entry in BUILTINS.items() if entry.activation)
"""Functions that an ``fn`` hyper-parameter may name."""

_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul,
}  # fmt: skip

Values = Mapping[str, Scalar | None]
"""Values by name; None for a hyper-parameter whose value is not known yet."""


class Unknown(Exception):
    """The value depends on a hyper-parameter that has none yet."""


@dataclass(frozen=True)
class NotConstant(Exception):
    """An expression that is no constant, and the diagnostic for it."""

    code: str
    message: str
    node: n.Node
    help: str | None = None


def evaluate(expr: n.Expr, values: Values) -> Scalar:
    """The value of a constant expression: numbers, hyper-parameters, arithmetic, ``sqrt`` ….

    Raises:
        NotConstant: the expression is not of that kind, or its value is out of range.
        Unknown: it reads a hyper-parameter that has no value.
    """
    done: dict[int, Scalar] = {}
    for node in walk(expr):
        below = [done[id(child)] for child in operands(node)]
        done[id(node)] = _in_range(_value(node, below, values), node)
    return done[id(expr)]


def _value(node: n.Expr, below: list[Scalar], values: Values) -> Scalar:
    match node:
        case n.Number() | n.Boolean() | n.String():
            return node.value
        case n.Name():
            return _named(node, values)
        case n.Unary(op="-"):
            return -_number(below[0], node)
        case n.Binary():
            left, right = (_number(value, node) for value in below)
            return _binary(node, left, right)
        case n.Call():
            return _called(node, below)
    raise NotConstant("T211", "this is not a number", node)


def _named(node: n.Name, values: Values) -> Scalar:
    if node.text not in values:
        raise NotConstant(
            "N102", f"`{node.text}` is not a hyper-parameter that is known here", node,
            did_you_mean(node.text, values) or "constants are made of numbers and of the "
            "hyper-parameters that come before",
        )  # fmt: skip
    value = values[node.text]
    if value is None:
        raise Unknown(node.text)
    return value


def _number(value: Scalar, node: n.Node) -> int | float:
    if isinstance(value, bool | str):
        raise NotConstant("T204", f"`{value}` is not a number", node)
    return value


def _binary(node: n.Binary, left: float, right: float) -> int | float:
    if node.op == "/":
        if right == 0:
            raise NotConstant("T212", "this divides by zero", node)
        whole = isinstance(left, int) and isinstance(right, int) and left % right == 0
        return left // right if whole else left / right
    if node.op == "**":
        if isinstance(left, int) and isinstance(right, int) and not 0 <= right <= 64:
            left = float(left)
        return _guarded(lambda: left**right, node)
    if node.op not in _OPERATORS:
        raise NotConstant("T211", f"`{node.op}` is for tensors; these are numbers", node)
    return _guarded(lambda: _OPERATORS[node.op](left, right), node)


def _called(node: n.Call, below: list[Scalar]) -> int | float:
    name = node.function.text
    if name not in NUMBERS:
        raise NotConstant(
            "N103", f"`{name}` is not a function of numbers", node.function,
            did_you_mean(name, NUMBERS) or f"there are {', '.join(NUMBERS)}",
        )  # fmt: skip
    if len(below) != 1 or len(node.arguments) != 1:
        raise NotConstant("N111", f"`{name}` takes one number", node)
    number = _number(below[0], node)
    return _guarded(lambda: NUMBERS[name](number), node)


def _guarded(compute: Callable[[], float], node: n.Node) -> int | float:
    try:
        found = compute()
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise NotConstant("T212", "this has no finite value", node) from error
    if isinstance(found, complex):
        raise NotConstant("T212", "this is not a real number", node)
    return found


def _in_range(value: Scalar, node: n.Node) -> Scalar:
    if isinstance(value, int) and abs(value) > LARGEST:
        raise NotConstant("T212", f"whole numbers go up to {LARGEST}", node)
    if isinstance(value, float) and not math.isfinite(value):
        raise NotConstant("T212", "this has no finite value", node)
    return value


def fitted(kind: str, value: Scalar) -> Scalar | None:
    """``value`` as a hyper-parameter of a kind, or None when it is not one.

    Whole numbers are floats too. Text is read as the kind's literal, as from a command line.
    """
    if isinstance(value, str):
        return _from_text(kind, value)
    match kind, value:
        case ("bool", bool()) | ("str", _):
            return value if kind == "bool" else str(value)
        case _, bool():
            return None
        case "int", int() if abs(value) <= LARGEST:
            return value
        case "float", _ if math.isfinite(value) and abs(value) < 1e300:
            return float(value)
    return None


def _from_text(kind: str, text: str) -> Scalar | None:
    if kind == "fn":
        return text if text in ACTIVATIONS else None
    if kind == "str":
        return None if '"' in text or "\n" in text else text
    if kind == "bool":
        return {"true": True, "false": False}.get(text)
    try:
        number: int | float = int(text) if kind == "int" else float(text)
    except ValueError:
        return None
    return fitted(kind, number)


def wanted(kind: str) -> str:
    """What a kind takes, in words."""
    return {
        "int": "a whole number", "float": "a number", "bool": "`true` or `false`",
        "str": "a text", "fn": "the name of an elementwise function",
    }.get(kind, kind)  # fmt: skip


def constant(
    kind: str, expr: n.Expr, values: Values, source: Source, report: Report
) -> Scalar | None:
    """The value of a default or argument of a kind; None, and a diagnostic, when it is none.

    Raises:
        Unknown: it reads a hyper-parameter that has no value yet.
    """
    place = Place(source, expr.span)
    if kind == "fn":
        return _function(expr, values, place, report)
    try:
        value = evaluate(expr, values)
    except NotConstant as fact:
        report.error(fact.code, fact.message, Place(source, fact.node.span), help=fact.help)
        return None
    literal = isinstance(value, str) != (kind == "str")
    found = None if literal else fitted(kind, value)
    if found is None:
        text = f'"{value}"' if isinstance(value, str) else str(value).lower()
        report.error("T204", f"{wanted(kind)} is wanted here, and this is {text}", place)
    return found


def _function(expr: n.Expr, values: Values, place: Place, report: Report) -> Scalar | None:
    if isinstance(expr, n.Name):
        if expr.text in values:
            value = values[expr.text]
            if value is None:
                raise Unknown(expr.text)
            if isinstance(value, str) and value in ACTIVATIONS:
                return value
        elif expr.text in ACTIVATIONS:
            return expr.text
        report.error(
            "N103", f"`{expr.text}` is not an elementwise function", place,
            help=did_you_mean(expr.text, ACTIVATIONS)
            or f"there are {', '.join(sorted(ACTIVATIONS))}",
        )  # fmt: skip
        return None
    report.error("T204", f"{wanted('fn')} is wanted here", place, help="such as `gelu`")
    return None

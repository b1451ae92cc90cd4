"""Constants: the values of hyper-parameters, evaluated and fitted to their types."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import cast

from peftlang.diagnostics import did_you_mean
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.builtins.numbers import NUMBERS
from peftlang.ir.expr import Scalar
from peftlang.lower.report import Fault
from peftlang.lower.walk import fold
from peftlang.syntax import nodes as n

LARGEST = 2**53
"""Whole numbers beyond this are refused, so that every one is exact as a float too."""

ACTIVATIONS = frozenset(name for name, entry in BUILTINS.items() if entry.activation)
"""Functions that an ``fn`` hyper-parameter may name."""

CALLABLE = {
    name: entry for name, entry in BUILTINS.items() if entry.signature.startswith(f"{name}(")
}
"""Builtins that a spec calls by name, operators not among them."""

Values = Mapping[str, Scalar | None]
"""Values by name; None for a hyper-parameter whose value is not known yet."""


class Unknown(Exception):
    """The value depends on a hyper-parameter that has none yet, or is of a type that is none."""


def constant(kind: str, expr: n.Expr, values: Values) -> Scalar:
    """The value of a default or argument of a kind.

    Raises:
        Faults: it is no constant, or none of that kind.
        Unknown: it reads a hyper-parameter that has no value yet, or the kind is none.
    """
    if kind not in n.TYPES:
        raise Unknown(kind)
    if kind == "fn":
        return _function(expr, values)
    value = evaluate(expr, values)
    found = fitted(kind, value) if isinstance(value, str) == (kind == "str") else None
    if found is None:
        text = f'"{value}"' if isinstance(value, str) else str(value).lower()
        raise Fault("T204", f"{in_words(kind)} is wanted here, and this is {text}", expr)
    return found


def _function(expr: n.Expr, values: Values) -> Scalar:
    if not isinstance(expr, n.Name):
        raise Fault("T204", f"{in_words('fn')} is wanted here", expr, help="such as `gelu`")
    found = values.get(expr.text, expr.text)
    if found is None:
        raise Unknown(expr.text)
    if found not in ACTIVATIONS:
        there_are = f"there are {', '.join(sorted(ACTIVATIONS))}"
        advice = did_you_mean(expr.text, ACTIVATIONS) or there_are
        message = f"`{expr.text}` is not an elementwise function"
        raise Fault("N103", message, expr, help=advice)
    return found


def evaluate(expr: n.Expr, values: Values) -> Scalar:
    """The value of a constant expression: numbers, hyper-parameters, arithmetic, ``sqrt`` ….

    Raises:
        Faults: the expression is not of that kind, or its value is out of range.
        Unknown: it reads a hyper-parameter that has no value.
    """

    def value(node: n.Expr, below: list[Scalar]) -> Scalar:
        found = _value(node, below, values)
        if isinstance(found, int) and abs(found) > LARGEST:
            raise Fault("T212", f"whole numbers go up to {LARGEST}", node)
        if isinstance(found, float) and not math.isfinite(found):
            raise Fault("T212", "this has no finite value", node)
        return found

    return fold(expr, value)


def _value(node: n.Expr, below: list[Scalar], values: Values) -> Scalar:
    match node:
        case n.Number() | n.Boolean() | n.String():
            return node.value
        case n.Name():
            return _named(node, values)
        case n.Unary():
            return -_number(below[0], node)
        case n.Binary():
            left, right = (_number(value, node) for value in below)
            return _binary(node, left, right)
        case n.Call():
            return _called(node, below)
    raise Fault("T211", "this is not a number", node)


def _named(node: n.Name, values: Values) -> Scalar:
    if node.text not in values:
        message = f"`{node.text}` is not a hyper-parameter that is known here"
        made_of = "constants are made of numbers and of the hyper-parameters that come before"
        raise Fault("N102", message, node, help=did_you_mean(node.text, values) or made_of)
    value = values[node.text]
    if value is None:
        raise Unknown(node.text)
    return value


def _number(value: Scalar, node: n.Node) -> int | float:
    if isinstance(value, bool | str):
        raise Fault("T204", f"`{value}` is not a number", node)
    return value


def _quotient(left: float, right: float) -> int | float:
    whole = isinstance(left, int) and isinstance(right, int) and left % right == 0
    return left // right if whole else left / right


def _power(left: float, right: float) -> int | float:
    if isinstance(left, int) and isinstance(right, int) and not 0 <= right <= 64:
        left = float(left)
    return cast("int | float", left**right)


_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _quotient,
    "**": _power,
}


def _binary(node: n.Binary, left: float, right: float) -> int | float:
    if node.op not in _OPERATORS:
        raise Fault("T211", f"`{node.op}` is for tensors; these are numbers", node)
    if node.op == "/" and right == 0:
        raise Fault("T212", "this divides by zero", node)
    return _finite(lambda: _OPERATORS[node.op](left, right), node)


def _called(node: n.Call, below: list[Scalar]) -> int | float:
    name = node.function.text
    if name not in NUMBERS:
        advice = did_you_mean(name, NUMBERS) or f"there are {', '.join(NUMBERS)}"
        raise Fault("N103", f"`{name}` is not a function of numbers", node.function, help=advice)
    if len(below) != 1 or len(node.arguments) != 1:
        raise Fault("N111", f"`{name}` takes one number", node)
    number = _number(below[0], node)
    return _finite(lambda: NUMBERS[name](number), node)


def _finite(compute: Callable[[], float], node: n.Node) -> int | float:
    try:
        found = compute()
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise Fault("T212", "this has no finite value", node) from error
    if isinstance(found, complex):
        raise Fault("T212", "this is not a real number", node)
    return found


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


def in_words(kind: str) -> str:
    """What a hyper-parameter of a kind takes."""
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "`true` or `false`",
        "str": "a text",
        "fn": "the name of an elementwise function",
    }
    return words.get(kind, kind)

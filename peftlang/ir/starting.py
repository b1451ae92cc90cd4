"""Expressions with every tensor as it starts, simplified as far as the table's columns allow.

A value is a tuple: ``("num", v)``, every element is v; ``("eye",)``, the identity matrix;
``("ref", name)``, a name of the site or a tensor of which nothing is known; ``("rows", name)``, a
tensor with orthonormal rows; ``("app", op, operands, extras)``, anything else. Two expressions
that have the same value compute the same numbers.
"""

from collections.abc import Mapping
from typing import Any

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.builtins.numbers import on_number
from peftlang.ir.expr import Apply, DimValue, Expr, Number, Ref, children, postorder
from peftlang.ir.inits import INITIALISERS
from peftlang.ir.method import Init

Value = tuple[Any, ...]
ZERO: Value = ("num", 0.0)


def starts_as(root: Expr, inits: Mapping[str, Init]) -> Value:
    """What an expression is, with tensors as their initialisers make them.

    Args:
        root: Any expression.
        inits: The method's tensors; other names stand for themselves.
    """
    return _starts_as(root, inits, {})


def _starts_as(root: Expr, inits: Mapping[str, Init], starts: dict[str, Value]) -> Value:
    """``starts`` holds what is known of tensors, which may start from one another."""
    known: dict[int, Value] = {}
    for node in postorder(root):
        if isinstance(node, Ref) and node.name not in starts:
            starts[node.name] = _started(node.name, inits, starts)
        known[id(node)] = _value(node, known, starts)
    return known[id(root)]


def _value(node: Expr, known: Mapping[int, Value], starts: Mapping[str, Value]) -> Value:
    if isinstance(node, Number):
        return ("num", float(node.value)) if isinstance(node.value, int | float) else ("text",)
    if isinstance(node, DimValue):
        whole = node.dim.constant
        return ("num", float(whole)) if whole is not None else ("dim", str(node.dim))
    if isinstance(node, Ref):
        return starts[node.name]
    if not isinstance(node, Apply) or node.is_hyper:
        extras = tuple(known[id(child)] for child in children(node))
        return ("app", getattr(node, "op", getattr(node, "name", "")), extras, ("hyper",))
    return _applied(node, [known[id(arg)] for arg in node.args], known)


def _started(name: str, inits: Mapping[str, Init], starts: dict[str, Value]) -> Value:
    init = inits.get(name)
    if init is None:
        return ("ref", name)
    if init.expression is not None:
        return _starts_as(init.expression, inits, starts)
    assert init.name is not None
    entry = INITIALISERS[init.name]
    if entry.value in ("zeros", "ones"):
        return ("num", 1.0 if entry.value == "ones" else 0.0)
    if init.name == "constant" and init.args:
        return starts_as(init.args[0], {})
    return {"eye": ("eye",), "orthogonal": ("rows", name)}.get(init.name, ("tensor", name))


def _applied(node: Apply, args: list[Value], known: Mapping[int, Value]) -> Value:
    entry = BUILTINS[node.op]
    relevant = [args[i] for i in entry.linear if i < len(args)] or args
    zeros = [value == ZERO for value in relevant]
    if (entry.zero == "any" and any(zeros)) or (entry.zero == "all" and zeros and all(zeros)):
        return ZERO
    if entry.transparent or (entry.keeps_orthonormal and args[0][0] == "rows"):
        return args[0]
    wanted = {"zero": ZERO, "ones": ("num", 1.0), "eye": ("eye",)}.get(entry.eye or "")
    if wanted is not None and args and all(value == wanted for value in args):
        return ("eye",)
    simpler = _arithmetic(node, args)
    if simpler is not None:
        return simpler
    if entry.activation and args[0][0] == "num":
        return _number(node.op, args[0])
    keywords = tuple((key, known[id(value)]) for key, value in node.keywords)
    extras = (*keywords, *map(str, node.over))
    if node.op in ("reshape", "concat", "index"):
        extras = (*extras, *map(str, node.type.dims))
    return ("app", node.op, tuple(args), extras)


def _number(op: str, value: Value) -> Value:
    try:
        return ("num", float(on_number(op, value[1])))
    except (ValueError, OverflowError, KeyError, ZeroDivisionError):
        return ("app", op, (value,), ())


def _arithmetic(node: Apply, args: list[Value]) -> Value | None:
    """Neutral elements, a value less or over itself, and plain numbers."""
    if node.op == "neg" and args[0][0] == "num":
        return ("num", -args[0][1])
    if len(args) != 2 or node.op not in ("+", "-", "*", "/", "@"):
        return None
    return _of_two(node, *args)


def _of_two(node: Apply, left: Value, right: Value) -> Value | None:
    if left[0] == right[0] == "num" and node.op != "@":
        return _folded(node.op, left[1], right[1])
    neutral = {"+": ZERO, "-": ZERO, "*": ("num", 1.0), "/": ("num", 1.0), "@": ("eye",)}[node.op]
    dims = [set(arg.type.dims) for arg in node.args]
    whole = set(node.type.dims)
    if right == neutral and (dims[0] == whole or node.op == "@"):
        return left
    if left == neutral and node.op in "+*@" and (dims[1] == whole or node.op == "@"):
        return right
    if left == right and node.op == "-":
        return ZERO
    return ("num", 1.0) if left == right and node.op == "/" else None


def _folded(op: str, left: float, right: float) -> Value | None:
    if op == "/":
        return ("num", left / right) if right else None
    return ("num", {"+": left + right, "-": left - right, "*": left * right}[op])

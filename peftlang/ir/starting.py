"""Expressions with every tensor as it starts, simplified as far as the table's columns allow.

A value is a tuple: ``("num", v)``, every element is v; ``("eye",)``, the identity matrix;
``("ref", name)``, a name of the site or a tensor of which nothing is known; ``("rows", name)``, a
tensor with orthonormal rows; ``("app", op, operands, extras)``, anything else; ``("undefined",)``,
a division by zero or the like. Two expressions that have the same value compute the same numbers,
wherever they compute numbers at all.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

from peftlang.ir.builtins import BUILTINS, Builtin
from peftlang.ir.builtins.numbers import on_number, power, quotient
from peftlang.ir.expr import Apply, DimValue, Expr, Number, Ref, children, postorder
from peftlang.ir.inits import INITIALISERS
from peftlang.ir.method import Init
from peftlang.ir.positions import NUMBERS_OF_SITES
from peftlang.ir.signs import Signs, signs
from peftlang.ir.sizes import numbers

Value = tuple[Any, ...]
ZERO: Value = ("num", 0.0)
ONE: Value = ("num", 1.0)
UNDEFINED: Value = ("undefined",)
_NO_SIGNS = Signs()


@dataclass(frozen=True)
class Start:
    """What an expression is as its method starts.

    Attributes:
        value: Which expressions it is the same as.
        defined: Whether it has finite numbers alone, for certain.
        signs: What is known of its elements.
    """

    value: Value
    defined: bool = True
    signs: Signs = _NO_SIGNS


_UNDEFINED = Start(UNDEFINED, defined=False)


def starts_as(root: Expr, inits: Mapping[str, Init]) -> Value:
    """What an expression is, with tensors as their initialisers make them.

    Args:
        root: Any expression.
        inits: The method's tensors; other names stand for themselves.
    """
    return Starts(inits)(root).value


class Starts:
    """What expressions of a method are as it starts; each node is looked at once.

    Args:
        inits: The method's tensors; other names stand for themselves.
        moved: Tensors that are no longer as they started, and so stand for themselves too.
    """

    def __init__(self, inits: Mapping[str, Init], moved: frozenset[str] = frozenset()) -> None:
        self._known: dict[int, tuple[Expr, Start]] = {}
        self._values: dict[tuple[Any, ...], Value] = {}
        self._tensors: dict[str, Start] = {}
        for name, init in inits.items():
            # One reads only those before it, so that a long chain of them is no deep recursion.
            self._tensors[name] = self._tensor(name, init)
        for name in moved:
            self._tensors[name] = Start(("ref", name), signs=Signs(full=True))

    def __call__(self, root: Expr) -> Start:
        for node in postorder(root, done=self._known):
            self._known[id(node)] = (node, self._start(node))
        return self._known[id(root)][1]

    def _start(self, node: Expr) -> Start:
        if isinstance(node, Number):
            return _number(node.value) if isinstance(node.value, int | float) else Start(("text",))
        if isinstance(node, DimValue):
            if node.dim.constant is not None:
                return _number(node.dim.constant)
            grows = all(coefficient > 0 for _, coefficient in node.dim.terms)
            size = grows and node.dim.symbols.isdisjoint(NUMBERS_OF_SITES)
            return Start(("dim", str(node.dim)), signs=Signs(size, grows))
        if isinstance(node, Ref):
            site = Start(("ref", node.name), signs=Signs(full=node.name == "W"))
            return self._tensors.get(node.name, site)
        below = [self._known[id(child)][1] for child in children(node)]
        if isinstance(node, Apply) and not node.is_hyper:
            return self._applied(node, below)
        # A number that is not known yet, or what a function that is not known makes of something.
        name = node.op if isinstance(node, Apply) else node.name
        return Start(self._value(name, below, "hyper"), defined=not isinstance(node, Apply))

    def _value(self, op: str, below: list[Start], *extras: str) -> Value:
        """The value of a call: one object for equal ones, so that comparing them is quick."""
        values = tuple(start.value for start in below)
        known = (id(value) if value[0] == "app" else value for value in values)
        return self._values.setdefault((op, *known, *extras), ("app", op, values, extras))

    def _applied(self, node: Apply, below: list[Start]) -> Start:
        """A call of a builtin: what it is the same as, whether it is defined, and its signs."""
        if any(start.value == UNDEFINED for start in below):
            return _UNDEFINED
        entry, args = BUILTINS[node.op], below[: len(node.args)]
        named = {
            key: start for (key, _), start in zip(node.keywords, below[len(args) :], strict=True)
        }
        defined = all(start.defined for start in below)
        lacking = [args[index] for index, sign in entry.needs if not args[index].signs.are(sign)]
        if node.op != "**" and any(start.value[0] == "num" for start in lacking):
            return _UNDEFINED
        defined = defined and not lacking
        defined = defined and ("eps" not in named or named["eps"].signs.positive)
        if defined and _is_zero(entry, args):
            return _number(0.0)
        if entry.transparent or (entry.keeps_orthonormal and args[0].value[0] == "rows"):
            return args[0]
        same = _simpler(node, args, defined=defined)
        if same is not None:
            return same
        dims = node.type.dims if node.op in ("reshape", "concat", "index") else ()
        value = self._value(node.op, below, *named, *map(str, (*node.over, *dims)))
        square = len(args) == 2 and args[0].value == args[1].value
        return Start(value, defined, signs(node, [start.signs for start in args], square=square))

    def _tensor(self, name: str, init: Init) -> Start:
        if init.expression is not None:
            return self(init.expression)
        assert init.name is not None
        if init.name == "constant":
            return self(init.args[0])
        entry = INITIALISERS[init.name]
        given = {**dict(zip(entry.operands, init.args, strict=True)), **dict(init.keywords)}
        known = numbers(given.values(), {})
        args = {key: known.get(id(value)) for key, value in given.items()}
        every = entry.every({**entry.defaults, **args})
        if every is not None:
            return _number(every)
        kinds: dict[str, Value] = {"eye": ("eye",), "orthogonal": ("rows", name)}
        value = kinds.get(init.name, ("tensor", name))
        return Start(value, signs=Signs(not_negative=init.name == "eye", full=entry.full))


def _number(value: float) -> Start:
    if not isfinite(value):
        return _UNDEFINED
    return Start(("num", float(value)), signs=Signs(value != 0, value >= 0, value != 0))


def _is_zero(entry: Builtin, args: list[Start]) -> bool:
    relevant = [args[i] for i in entry.linear if i < len(args)] or args
    zeros = [start.value == ZERO for start in relevant]
    return any(zeros) if entry.zero == "any" else entry.zero == "all" and all(zeros) and bool(zeros)


def _simpler(  # noqa: PLR0911 -- one for each rule
    node: Apply, args: list[Start], *, defined: bool
) -> Start | None:
    """One operand, the identity matrix or a plain number that a call is the same as."""
    eye = {"zero": ZERO, "ones": ONE, "eye": ("eye",)}.get(BUILTINS[node.op].eye or "")
    if eye is not None and args and all(start.value == eye for start in args):
        return Start(("eye",), signs=Signs(not_negative=True, full=True))
    plain = [start.value[1] for start in args if start.value[0] == "num"]
    if len(plain) == len(args) and node.op != "@":
        return _of_numbers(node.op, plain)
    if len(args) != 2 or node.op not in _NEUTRAL:
        return None
    (left, right), neutral, product = args, _NEUTRAL[node.op], node.op == "@"
    whole = set(node.type.dims)
    dims = [set(arg.type.dims) for arg in node.args]
    if right.value == neutral and (product or dims[0] == whole):
        return left
    if left.value == neutral and node.op in "+*@" and (product or dims[1] == whole):
        return right
    if left.value == right.value and defined and node.op in "-/":
        return _number(0.0 if node.op == "-" else 1.0)
    return None


_NEUTRAL: dict[str, Value] = {"+": ZERO, "-": ZERO, "*": ONE, "/": ONE, "@": ("eye",)}


def _of_numbers(op: str, values: list[float]) -> Start | None:
    """A function of numbers alone; None where it is none of their elements alone."""
    if op in _ARITHMETIC:
        return _number(_ARITHMETIC[op](*values))
    return _number(on_number(op, *values)) if BUILTINS[op].activation else None


_ARITHMETIC: dict[str, Callable[..., float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": quotient,
    "**": power,
    "neg": operator.neg,
    "sqrt": partial(on_number, "sqrt"),
}

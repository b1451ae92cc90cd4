"""Selectors: from the syntax tree to flat alternatives with their scopes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from peftlang.diagnostics import did_you_mean
from peftlang.ir.positions import POSITIONS
from peftlang.ir.selector import Comparison, LayerRange, Selector, Target
from peftlang.lower.constants import Unknown, Values, evaluate
from peftlang.lower.report import Fault, Gathering, every
from peftlang.lower.walk import offsets
from peftlang.syntax import nodes as n

SIZES = (
    "d_x",
    "d_h",
    "d_head",
    "heads",
    "kv_heads",
    "layers",
    "layer",
    "vocab",
    "expert",
    "experts",
)
"""What ``where`` can compare."""

MAX_TARGETS = 1000
MAX_CASES = 64

Operator = Literal["<", "<=", ">", ">=", "==", "!="]
Case = tuple[Comparison, ...]

_FLIPPED: dict[str, Operator] = {">": "<", ">=": "<=", "<": ">", "<=": ">="}

_WITHOUT_PARAMETERS = frozenset({"attn.core", "cross_attn.core", "ffn.act", "prompt"})
_ROLES = [role for role in POSITIONS if role not in _WITHOUT_PARAMETERS]
PARAMETERS = frozenset(
    {"all", "bias", "weight"}
    | {*_ROLES}
    | {f"{role}.{part}" for role in _ROLES for part in ("weight", "bias")}
)
"""What ``train`` can name besides patterns: ``norm.weight``, ``bias``, ``head``, …."""


@dataclass(frozen=True)
class _Scopes:
    layers: tuple[LayerRange, ...] = ()
    sides: tuple[str, ...] = ()
    where: tuple[Case, ...] = ()


def lower_selector(node: n.Selector, values: Values, *, train: bool = False) -> Selector:
    """A selector as alternatives, less exceptions.

    Args:
        node: The selector.
        values: Hyper-parameters that ranges and sizes may use.
        train: Whether it is of parameters of the base (``train``), not of sites.

    Raises:
        Faults: S401, S422, S423, S424 and what constants get wrong.
    """
    lowering = _Lowering(values, train)
    targets = lowering.targets(node, _Scopes(), inside=False)
    if len(targets) + len(lowering.exceptions) > MAX_TARGETS:
        raise Fault("S424", "this selector has too many alternatives", node)
    return Selector(targets=tuple(targets), exceptions=tuple(lowering.exceptions))


class _Lowering:
    def __init__(self, values: Values, train: bool) -> None:
        self._values, self._train = values, train
        self.exceptions: list[Target] = []

    def targets(self, node: n.Selector, outer: _Scopes, *, inside: bool) -> list[Target]:
        """The alternatives of a selector within scopes; ``inside`` of a list."""
        match node:
            case n.Either():
                options = every(lambda o: self.targets(o, outer, inside=True), node.options)
                return [target for option in options for target in option]
            case n.Scoped():
                gathering, scopes, found = Gathering(), outer, list[Target]()
                for scope in node.scopes:
                    with gathering:
                        scopes = self._narrowed(scopes, scope, inside=inside)
                with gathering:
                    found = self.targets(node.selector, scopes, inside=inside)
                gathering.check()
                return found
        return [self._target(node, outer)]

    def _target(self, node: n.Role | n.Glob, scopes: _Scopes) -> Target:
        kind: Literal["role", "glob", "parameter"] = "glob"
        text = node.pattern if isinstance(node, n.Glob) else node.text
        if isinstance(node, n.Role):
            kind = "parameter" if self._train else "role"
            if text not in (PARAMETERS if self._train else POSITIONS):
                raise self._unknown(node)
        elif not text.strip():
            raise Fault("S401", "this pattern is empty", node)
        span = offsets(node)
        return Target(
            kind=kind,
            text=text,
            layers=scopes.layers,
            sides=scopes.sides,
            where=scopes.where,
            span=span,
        )

    def _unknown(self, node: n.Role) -> Fault:
        message = f"there is no position `{node.text}`"
        advice = did_you_mean(node.text, POSITIONS)
        there_are = f"positions are {', '.join(POSITIONS)}, or a module path in quotes"
        if self._train:
            message = f"`{node.text}` names no parameters of a base model"
            advice = did_you_mean(node.text, PARAMETERS)
            there_are = "write `norm.weight`, `linear.bias`, `bias`, `head`, or a pattern in quotes"
        return Fault("S401", message, node, help=advice or there_are)

    def _narrowed(self, outer: _Scopes, scope: n.Scope, *, inside: bool) -> _Scopes:
        match scope:
            case n.Layers():
                if outer.layers and scope.ranges:
                    advice = "say one list of ranges: `in layers[0..3, -1]`"
                    raise Fault("S424", "the layers are narrowed twice", scope, help=advice)
                ranges = tuple(self._range(r) for r in scope.ranges)
                return replace(outer, layers=outer.layers + ranges)
            case n.Side():
                return replace(outer, sides=(*outer.sides, scope.name))
            case n.Where():
                cases = self._cases(scope.condition)
                if outer.where:
                    cases = _bounded(_both(outer.where, cases), scope.condition)
                return replace(outer, where=cases)
        if inside:
            message = (
                "`except` inside a list takes away from one alternative alone, which cannot be "
                "said yet"
            )
            advice = "put it after the whole list, in parentheses, or write two uses"
            raise Fault("S424", message, scope, help=advice)
        self.exceptions += self.targets(scope.selector, _Scopes(), inside=True)
        return outer

    def _range(self, node: n.LayerRange) -> LayerRange:
        first, last = self._whole(node.first), self._whole(node.last)
        if first is not None and last is not None and first > last and (first < 0) == (last < 0):
            advice = f"both ends are included: `{last}..{first}`"
            raise Fault("S423", f"the layers {first}..{last} are none", node, help=advice)
        return LayerRange(first=first, last=last)

    def _whole(self, expr: n.Expr | None) -> int | None:
        """A whole number; None where it is open, or not known yet."""
        try:
            value = None if expr is None else evaluate(expr, self._values)
        except Unknown:
            return None
        if expr is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise Fault("T204", "a layer is a whole number, counted from 0", expr)
        return value if isinstance(value, int) else None

    def _cases(self, expr: n.Expr) -> tuple[Case, ...]:
        """A condition as alternatives of comparisons that all hold."""
        match expr:
            case n.Logic():
                left, right = self._cases(expr.left), self._cases(expr.right)
                return _bounded(left + right if expr.op == "or" else _both(left, right), expr)
            case n.Compare():
                return ((self._comparison(expr),),)
        raise Fault("S422", "a comparison is wanted here", expr, help="such as `d_h >= 1024`")

    def _comparison(self, expr: n.Compare) -> Comparison:
        operator: Operator = expr.op
        dim, number = expr.left, expr.right
        if not _is_size(dim) and _is_size(number):
            dim, number, operator = number, dim, _FLIPPED.get(operator, operator)
        sizes = f"the sizes are {', '.join(SIZES)}"
        if not isinstance(dim, n.Name) or dim.text in self._values:
            message = "one side of this comparison must be a size of the site"
            raise Fault("S422", message, dim, help=sizes)
        if dim.text not in SIZES:
            advice = did_you_mean(dim.text, SIZES) or sizes
            raise Fault("S422", f"`{dim.text}` is not a size of a site", dim, help=advice)
        if _is_size(number):
            raise Fault("S422", "a size is compared with a number", number)
        return Comparison(dim=dim.text, operator=operator, value=self._whole(number) or 0)


def _both(left: Iterable[Case], right: Iterable[Case]) -> Iterable[Case]:
    """Every case of one with every case of the other."""
    return (a + b for a, b in product(left, right))


def _bounded(cases: Iterable[Case], node: n.Node) -> tuple[Case, ...]:
    found: list[Case] = []
    for case in cases:
        found.append(case)
        if len(found) > MAX_CASES:
            raise Fault("S424", "this condition has too many cases", node)
    return tuple(found)


def _is_size(expr: n.Expr) -> bool:
    return isinstance(expr, n.Name) and expr.text in SIZES

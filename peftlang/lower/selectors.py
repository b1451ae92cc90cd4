"""Selectors: from the syntax tree to flat alternatives with their scopes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.positions import POSITIONS
from peftlang.ir.selector import Comparison, LayerRange, Selector, Target
from peftlang.lower.report import Place, Report
from peftlang.lower.values import NotConstant, Unknown, Values, evaluate
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
_MAX_CASES = 64

Operator = Literal["<", "<=", ">", ">=", "==", "!="]
Cases = tuple[tuple[Comparison, ...], ...]

_FLIPPED: dict[str, Operator] = {
    "<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!=",
}  # fmt: skip

_WITHOUT_PARAMETERS = frozenset({"attn.core", "cross_attn.core", "ffn.act", "prompt"})
_EVERYWHERE = frozenset({"all", "bias", "weight"})


class _Fault(Exception):
    def __init__(self, code: str, message: str, node: n.Node, mend: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.node, self.mend = code, message, node, mend


@dataclass(frozen=True)
class _Scopes:
    layers: tuple[LayerRange, ...] = ()
    sides: tuple[str, ...] = ()
    where: Cases = ()


class Selectors:
    """Lowers selectors.

    Args:
        values: Hyper-parameters that ranges and sizes may use.
        report: Takes what is wrong.
        train: Whether targets are parameters of the base (``train``), not sites.
    """

    def __init__(self, values: Values, report: Report, *, train: bool = False) -> None:
        self._values, self._report, self._train = values, report, train

    def lower(self, selector: n.Selector, source: Source) -> Selector | None:
        """The selector, or None after at least one diagnostic."""
        before = self._report.errors
        targets: list[Target] = []
        exceptions: list[Target] = []
        self._collect(selector, _Scopes(), source, targets, exceptions, top=True)
        if self._report.errors > before:
            return None
        if len(targets) + len(exceptions) > MAX_TARGETS:
            self._report.error("S424", "this selector has too many alternatives",
                               Place(source, selector.span))  # fmt: skip
            return None
        return Selector(targets=tuple(targets), exceptions=tuple(exceptions))

    def _collect(
        self, selector: n.Selector, outer: _Scopes, source: Source, targets: list[Target],
        exceptions: list[Target], *, top: bool,
    ) -> None:  # fmt: skip
        match selector:
            case n.Either():
                for option in selector.options:
                    self._collect(option, outer, source, targets, exceptions, top=False)
            case n.Scoped():
                scopes = outer
                for scope in selector.scopes:
                    try:
                        scopes = self._narrowed(scopes, scope, source, exceptions, top=top)
                    except _Fault as fault:
                        place = Place(source, fault.node.span)
                        self._report.error(fault.code, fault.message, place, help=fault.mend)
                self._collect(selector.selector, scopes, source, targets, exceptions, top=top)
            case n.Role() | n.Glob():
                found = self._target(selector, outer, source)
                if found is not None:
                    targets.append(found)

    def _target(self, node: n.Role | n.Glob, scopes: _Scopes, source: Source) -> Target | None:
        kind: Literal["role", "glob", "parameter"] = "glob"
        text = node.pattern if isinstance(node, n.Glob) else node.text
        if isinstance(node, n.Role):
            kind = "parameter" if self._train else "role"
            known = parameter_names() if self._train else POSITIONS
            if text not in known:
                self._unknown(node, text, source)
                return None
        elif not text.strip():
            self._report.error("S401", "this pattern is empty", Place(source, node.span))
            return None
        return Target(
            kind=kind, text=text, layers=scopes.layers, sides=scopes.sides, where=scopes.where,
            span=(node.span.start, node.span.end),
        )  # fmt: skip

    def _unknown(self, node: n.Role, text: str, source: Source) -> None:
        place = Place(source, node.span)
        if self._train:
            self._report.error(
                "S401", f"`{text}` names no parameters of a base model", place,
                help=did_you_mean(text, parameter_names())
                or "write `norm.weight`, `linear.bias`, `bias`, `head`, or a pattern in quotes",
            )  # fmt: skip
            return
        advice = did_you_mean(text, POSITIONS)
        if advice is None:
            advice = f"positions are {', '.join(POSITIONS)}, or a module path in quotes"
        self._report.error("S401", f"there is no position `{text}`", place, help=advice)

    def _narrowed(
        self, outer: _Scopes, scope: n.Scope, source: Source, exceptions: list[Target], *,
        top: bool,
    ) -> _Scopes:  # fmt: skip
        match scope:
            case n.Layers():
                if outer.layers and scope.ranges:
                    raise _Fault("S424", "the layers are narrowed twice", scope,
                                 "say one list of ranges: `in layers[0..3, -1]`")  # fmt: skip
                found = tuple(self._range(r) for r in scope.ranges)
                return _Scopes(outer.layers + found, outer.sides, outer.where)
            case n.Side():
                return _Scopes(outer.layers, (*outer.sides, scope.name), outer.where)
            case n.Where():
                return _Scopes(outer.layers, outer.sides, self._both(outer.where, scope))
        if not top:
            raise _Fault(
                "S424",
                "`except` inside a list takes away from one alternative alone, which cannot be "
                "said yet",
                scope,
                "put it after the whole list, in parentheses, or write two uses",
            )
        self._exceptions(scope, source, exceptions)
        return outer

    def _exceptions(self, scope: n.Except, source: Source, exceptions: list[Target]) -> None:
        nested: list[Target] = []
        self._collect(scope.selector, _Scopes(), source, exceptions, nested, top=False)

    def _range(self, node: n.LayerRange) -> LayerRange:
        first, last = self._end(node.first), self._end(node.last)
        if first is not None and last is not None and first > last and (first < 0) == (last < 0):
            raise _Fault("S423", f"the layers {first}..{last} are none", node,
                         f"both ends are included: `{last}..{first}`")  # fmt: skip
        return LayerRange(first=first, last=last)

    def _end(self, expr: n.Expr | None) -> int | None:
        if expr is None:
            return None
        try:
            value = evaluate(expr, self._values)
        except Unknown:
            return None
        except NotConstant as fact:
            raise _Fault(fact.code, fact.message, fact.node, fact.help) from fact
        if isinstance(value, bool) or not isinstance(value, int):
            raise _Fault("T204", "a layer is a whole number, counted from 0", expr)
        return value

    def _both(self, outer: Cases, scope: n.Where) -> Cases:
        found = self._cases(scope.condition)
        if not outer:
            return found
        return self._bounded(product_of(outer, found), scope.condition)

    def _bounded(self, cases: Iterator[tuple[Comparison, ...]], node: n.Node) -> Cases:
        found: list[tuple[Comparison, ...]] = []
        for case in cases:
            found.append(case)
            if len(found) > _MAX_CASES:
                raise _Fault("S424", "this condition has too many cases", node)
        return tuple(found)

    def _cases(self, expr: n.Expr) -> Cases:
        """A condition as alternatives of comparisons that all hold."""
        match expr:
            case n.Logic():
                left, right = self._cases(expr.left), self._cases(expr.right)
                if expr.op == "or":
                    return self._bounded(iter(left + right), expr)
                return self._bounded(product_of(left, right), expr)
            case n.Compare():
                return ((self._comparison(expr),),)
        raise _Fault("S422", "a comparison is wanted here", expr, "such as `d_h >= 1024`")

    def _comparison(self, expr: n.Compare) -> Comparison:
        operator: Operator = expr.op
        dim, number = expr.left, expr.right
        if not _is_size(dim) and _is_size(number):
            dim, number, operator = number, dim, _FLIPPED[operator]
        if not isinstance(dim, n.Name) or dim.text in self._values:
            raise _Fault("S422", "one side of this comparison must be a size of the site", dim,
                         f"the sizes are {', '.join(SIZES)}")  # fmt: skip
        if dim.text not in SIZES:
            advice = did_you_mean(dim.text, SIZES) or f"the sizes are {', '.join(SIZES)}"
            raise _Fault("S422", f"`{dim.text}` is not a size of a site", dim, advice)
        if _is_size(number):
            raise _Fault("S422", "a size is compared with a number", number)
        value = self._end(number)
        return Comparison(dim=dim.text, operator=operator, value=value or 0)


def product_of(left: Cases, right: Cases) -> Iterator[tuple[Comparison, ...]]:
    """Every case of one with every case of the other."""
    return (a + b for a, b in product(left, right))


def _is_size(expr: n.Expr) -> bool:
    return isinstance(expr, n.Name) and expr.text in SIZES


def parameter_names() -> frozenset[str]:
    """What ``train`` can name besides patterns: ``norm.weight``, ``bias``, ``head``, …."""
    roles = [role for role in POSITIONS if role not in _WITHOUT_PARAMETERS]
    parts = {f"{role}.{part}" for role in roles for part in ("weight", "bias")}
    return frozenset(roles) | parts | _EVERYWHERE

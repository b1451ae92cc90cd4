"""Taps and carried states: what a site reads of others, and what it hands to the next."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from peftlang.diagnostics import Source, Span, did_you_mean
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Expr, Number, names
from peftlang.ir.method import CarryDef, TapDef
from peftlang.ir.positions import POSITIONS, SITE_DIMS, Scope
from peftlang.ir.selector import Target
from peftlang.ir.types import Level, Type
from peftlang.lower.clauses import Clauses, Placed
from peftlang.lower.dimensions import Dimensions, shape
from peftlang.lower.expressions import Expressions
from peftlang.lower.report import Place, Report
from peftlang.lower.selectors import Selectors
from peftlang.syntax import nodes as n

if TYPE_CHECKING:
    from peftlang.lower.names import Names
    from peftlang.lower.values import Values

_MODULE: Scope = POSITIONS["block"]
"""What a module named by its path has."""


def tap_symbols(clauses: Clauses, names: "Names") -> tuple[dict[str, Dim], frozenset[str]]:
    """Dimensions that taps name first, and those among them that differ from call to call."""
    found: dict[str, Dim] = {}
    sequences: set[str] = set()
    for tap in clauses.taps:
        new = [dim for dim in tap.node.dims if isinstance(dim, n.Name)]
        for dim in new:
            if dim.text not in SITE_DIMS and names.hypers.get(dim.text) != "int":
                found[dim.text] = Dim.of(dim.text)
        scope = _scope(tap.node.selector)
        value = scope.get(tap.node.value.text) if scope else None
        if value is not None and _is_sequence(value, len(tap.node.dims)):
            sequences |= {dim.text for dim in new if dim is tap.node.dims[0]}
    return found, frozenset(sequences & set(found))


def _is_sequence(value: Type, rank: int) -> bool:
    return value.level is Level.EXAMPLE or rank == len(value.dims) + 1


def _base(selector: n.Selector) -> n.Selector:
    return selector.selector if isinstance(selector, n.Scoped) else selector


def _scope(selector: n.Selector) -> Scope | None:
    base = _base(selector)
    if isinstance(base, n.Glob):
        return _MODULE
    return POSITIONS.get(base.text) if isinstance(base, n.Role) else None


class Streams:
    """Lowers the taps and the carried states of a method.

    Args:
        dimensions: Reads dimensions, those that taps name included.
        values: Values of hyper-parameters, for scopes.
        sequences: Dimensions that are lengths of sequences.
        report: Takes what is wrong.
    """

    def __init__(
        self, dimensions: Dimensions, values: "Values", sequences: frozenset[str], report: Report
    ) -> None:
        self._dimensions, self._values = dimensions, values
        self._sequences, self._report = sequences, report

    def tap(self, entry: Placed[n.Tap]) -> tuple[TapDef, Type] | None:
        """A tap and the type of its name; None after a diagnostic."""
        node, source = entry.node, entry.source
        target = self._target(node, source)
        dims = self._dims(node.dims, source)
        scope = _scope(node.selector)
        if target is None or dims is None or scope is None:
            return None
        value = self._value(node, scope, source)
        if value is None or not self._ranked(node, dims, value, source):
            return None
        layer = self._layer(node.selector, source)
        if layer is False:
            return None
        sequence = _is_sequence(value, len(dims))
        type_ = Type(dims, Level.EXAMPLE if sequence else Level.TOKEN)
        found = TapDef(
            name=node.name.text, dims=dims, target=target, value=node.value.text,
            layer=layer if isinstance(layer, Dim) else None, sequence=sequence,
            own=value.dims, span=(node.span.start, node.span.end),
        )  # fmt: skip
        return found, type_

    def _target(self, node: n.Tap, source: Source) -> Target | None:
        selector = node.selector
        if isinstance(selector, n.Scoped):
            scopes = tuple(s for s in selector.scopes if not isinstance(s, n.Layers))
            wrong = next((s for s in scopes if isinstance(s, n.Except)), None)
            if wrong is not None:
                self._report.error("S424", "a tap names one site, so there is nothing to except",
                                   Place(source, wrong.span))  # fmt: skip
                return None
            base = selector.selector
            selector = n.Scoped(selector.span, base, scopes) if scopes else base
        lowered = Selectors(self._values, self._report).lower(selector, source)
        return lowered.targets[0] if lowered else None

    def _dims(self, dims: tuple[n.Expr, ...], source: Source) -> tuple[Dim, ...] | None:
        read = [self._dimensions.read(dim, source) for dim in dims]
        found = tuple(dim for dim in read if dim is not None)
        return found if len(found) == len(read) else None

    def _value(self, node: n.Tap, scope: Scope, source: Source) -> Type | None:
        value = scope.get(node.value.text)
        if value is not None and value.level is not Level.CONST:
            return value
        has = [name for name, type_ in scope.items() if type_.level is not Level.CONST]
        self._report.error(
            "S403", f"a tap cannot read `{node.value.text}` there", Place(source, node.value.span),
            help=did_you_mean(node.value.text, has)
            or "it can read " + ", ".join(f"`{name}`" for name in has),
        )  # fmt: skip
        return None

    def _ranked(self, node: n.Tap, dims: tuple[Dim, ...], value: Type, source: Source) -> bool:
        ranks = {len(value.dims)} | ({len(value.dims) + 1} if value.level is Level.TOKEN else set())
        place = Place(source, node.name.span)
        if len(dims) not in ranks:
            self._report.error(
                "T208", f"`{node.value.text}` there is {value}, and the tap is {shape(dims)}",
                place,
                help="one dimension more, in front, makes it the whole sequence",
            )  # fmt: skip
            return False
        first = node.dims[0] if node.dims else None
        named = isinstance(first, n.Name) and first.text in self._sequences
        if _is_sequence(value, len(dims)) and not named:
            self._report.error(
                "T208", "the length of a tapped sequence has a name of its own", place,
                help="such as `tap y[n_y, d_h] = …`",
            )  # fmt: skip
            return False
        return True

    def _layer(self, selector: n.Selector, source: Source) -> Dim | bool | None:
        """The layer, where it is said; False after a diagnostic."""
        scopes = selector.scopes if isinstance(selector, n.Scoped) else ()
        said = [scope for scope in scopes if isinstance(scope, n.Layers)]
        if not said:
            return None
        ranges = [r for scope in said for r in scope.ranges]
        if len(ranges) != 1 or ranges[0].first is None or ranges[0].first is not ranges[0].last:
            self._report.error("S424", "a tap reads one layer", Place(source, said[0].span),
                               help="`in layers[layer - 1]`, or `in layers[-1]`")  # fmt: skip
            return False
        found = self._dimensions.read(ranges[0].first, source)
        if found is None:
            return False
        known = {name for name, v in self._values.items() if isinstance(v, int)} | {"layer"}
        unknown = found.symbols - known - {k for k, v in self._values.items() if v is None}
        if unknown:
            self._report.error("S424", f"a layer cannot be counted in `{min(unknown)}`",
                               Place(source, said[0].span))  # fmt: skip
            return False
        return found

    def carry(self, entry: Placed[n.Carry]) -> Type | None:
        """The type of a carried state's name; None after a diagnostic."""
        dims = self._dims(entry.node.dims, entry.source)
        return None if dims is None else Type(dims, Level.TOKEN)

    def start(
        self, entry: Placed[n.Carry], type_: Type, expressions: Expressions,
        carried: Mapping[str, object],
    ) -> CarryDef | None:  # fmt: skip
        """The carried state with its value before the first site."""
        node, source = entry.node, entry.source
        place = Place(source, node.init.span)
        value = _constant(node.init) or expressions.lower(node.init, source)
        if value is None:
            return None
        read = names(value) & set(carried)
        if read:
            self._report.error("M315", f"before the first site there is no `{min(read)}`", place,
                               help="start from `zeros`, `ones`, or what the site has")  # fmt: skip
            return None
        if value.type.dims and value.type.dims != type_.dims:
            self._report.error("T208", f"`{node.name.text}` is {type_}, and this is {value.type}",
                               place)  # fmt: skip
            return None
        return CarryDef(
            name=node.name.text, dims=type_.dims, init=value, span=(node.span.start, node.span.end)
        )


def _constant(expr: n.Expr) -> Expr | None:
    """The initialisers that fit a state of any length."""
    if isinstance(expr, n.Name) and expr.text in ("zeros", "ones"):
        return Number(1.0 if expr.text == "ones" else 0.0, Type(), _pair(expr.span))
    return None


def _pair(span: Span) -> tuple[int, int]:
    return span.start, span.end

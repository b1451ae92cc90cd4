"""Compositions: what the change may write, and that it fits there."""

from collections.abc import Mapping

from peftlang.diagnostics import did_you_mean
from peftlang.ir.builtins import BUILTINS, Signature
from peftlang.ir.builtins.tensors import averages_batch
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Expr, Ref, names, postorder
from peftlang.ir.method import Composition
from peftlang.ir.types import Level, Type, TypeFact
from peftlang.lower.clauses import Clauses, Placed
from peftlang.lower.expressions import Expressions
from peftlang.lower.names import Names
from peftlang.lower.report import Place, Report
from peftlang.lower.scopes import Site
from peftlang.syntax import nodes as n

_TARGETS = ("h", "x", "q", "k", "v", "W", "b")

_LONGER = {"k": Dim.of("keys"), "v": Dim.of("keys"), "h": Dim.of("tokens")}
"""Targets whose first dimension a composition may lengthen."""

_VARIES = {
    Level.CONST: "is the same for every input",
    Level.EXAMPLE: "is one for each row of the batch",
    Level.TOKEN: "is one for each token",
}


class Compositions:
    """Lowers the compositions of a method at one kind of site.

    Args:
        expressions: Lowers their values.
        names: What the method declares.
        carried: Types of its carried states.
        site: The kind of site.
        insertion: ``parallel`` or ``sequential``.
        report: Takes what is wrong.
    """

    def __init__(
        self, expressions: Expressions, names: Names, carried: Mapping[str, Type], site: Site,
        insertion: str, report: Report,
    ) -> None:  # fmt: skip
        self._expressions, self._names, self._carried = expressions, names, carried
        self._site, self._insertion, self._report = site, insertion, report

    def lower(self, clauses: Clauses, lets: Mapping[str, Expr | None]) -> list[Composition]:
        """The compositions, ``h = h + function`` where none is written."""
        if not clauses.compositions and clauses.function is not None:
            found = self._default(clauses.function, lets)
            return [found] if found else []
        lowered = [self._composition(entry) for entry in clauses.compositions]
        done = [composition for composition in lowered if composition is not None]
        if len(done) == len(lowered):
            self._check_lengths(done, clauses)
        return done

    def _default(
        self, function: Placed[n.Function], lets: Mapping[str, Expr | None]
    ) -> Composition | None:
        value = lets.get(function.node.name.text)
        if value is None:
            return None
        place = Place(function.source, function.node.value.span)
        old = Ref("h", self._site.values["h"])
        try:
            type_ = BUILTINS["+"].rule(Signature((old, value)))
        except TypeFact:
            type_ = value.type
        total = Apply("+", (old, value), type_)
        if not self._fits("h", total, place, function=value):
            return None
        return Composition(target="h", value=total)

    def _composition(self, entry: Placed[n.Composition]) -> Composition | None:
        target = entry.node.target.text
        place = Place(entry.source, entry.node.target.span)
        if not self._check_target(target, place):
            return None
        value = self._expressions.lower(entry.node.value, entry.source)
        if value is None or self._reads_its_own_result(target, value, place):
            return None
        if not self._fits(target, value, Place(entry.source, entry.node.value.span)):
            return None
        span = (entry.node.span.start, entry.node.span.end)
        return Composition(target=target, value=value, span=span)

    def _reads_its_own_result(self, target: str, value: Expr, place: Place) -> bool:
        """Whether a change of what goes in reads what comes out."""
        if target != "x" or "h" not in names(value):
            return False
        self._report.error("M302", "`h` comes out of what goes in by `x`, so a change of `x` "
                           "cannot read it", place, help="write `h`, or read `x`")  # fmt: skip
        return True

    def _check_target(self, target: str, place: Place) -> bool:
        if target in self._site.targets or target in self._carried:
            return True
        has = ", ".join(f"`{name}`" for name in _TARGETS if name in self._site.targets)
        if target not in _TARGETS:
            self._report.error("M302", f"`{target}` is nothing that a composition can write", place,
                               help=did_you_mean(target, _TARGETS) or f"write {has}")  # fmt: skip
        elif target == "x" and "x" in self._site.values:
            why = f"`x` at {self._site.position} is read by more than one projection"
            if self._insertion == "sequential":
                why = "with sequential insertion `x` is the output"
            self._report.error("M302", f"{why}, and cannot be written", place,
                               help=f"write one of {has}")  # fmt: skip
        else:
            self._report.error("S403", f"a site at {self._site.position} has no `{target}`", place,
                               help=f"it has {has}")  # fmt: skip
        return False

    def _fits(
        self, target: str, value: Expr, place: Place, *, function: Expr | None = None
    ) -> bool:
        wanted = self._carried.get(target) or self._site.values[target]
        have = value.type
        if not self._same_shape(target, have, wanted):
            what = f"`h = h + {place.source.slice(place.span)}`" if function is not None else "this"
            if function is not None and len(what) > 40:
                what = "`h` and the function together"
            self._report.error(
                "T208", f"`{target}` is {wanted}, and {what if function else 'this'} is "
                f"{function.type if function is not None else have}", place,
                help=_shape_help(target, have, wanted),
            )  # fmt: skip
            return False
        if have.level > wanted.level:
            self._varies(target, value, wanted, place)
            return False
        if not self._of_its_own_row(target, value, place):
            return False
        if have.kind == "complex":
            self._report.error("T208", f"`{target}` is real, and this is complex", place,
                               help="`real(…)` of it")  # fmt: skip
            return False
        return True

    def _of_its_own_row(self, target: str, value: Expr, place: Place) -> bool:
        """What a row of the batch becomes does not depend on the other rows (M319)."""
        calls = (node for node in postorder(value) if isinstance(node, Apply))
        mixed = next((c for c in calls if averages_batch(c)), None)
        if mixed is None:
            return True
        self._report.error(
            "M319", f"`{target}` of one row would depend on the other rows of the batch",
            self._expressions.place(mixed) or place,
            help="`pool(…)` is the mean of each row; `over batch` is for penalties",
        )  # fmt: skip
        return False

    def _same_shape(self, target: str, have: Type, wanted: Type) -> bool:
        if have.dims == wanted.dims:
            return True
        longer = _LONGER.get(target)
        if longer is None or wanted.dims[:1] != (longer,) or not have.dims:
            return False
        if have.dims[1:] != wanted.dims[1:]:
            return False
        # A prompt keeps its own tokens, so that what the caller sees can keep its length.
        return target != "h" or not (have.dims[0] - longer).symbols & longer.symbols

    def _varies(self, target: str, value: Expr, wanted: Type, place: Place) -> None:
        read = (node for node in postorder(value) if isinstance(node, Ref))
        cause = next((ref for ref in read if ref.type.level > wanted.level), None)
        at = (self._expressions.place(cause) if cause is not None else None) or place
        name = cause.name if cause is not None else "this"
        if target in ("W", "b"):
            self._report.error(
                "M303", f"`{target}` is a weight, the same for every token, and `{name}` is not",
                at, labels=[] if at == place else [(place, f"composed into `{target}`")],
                help="a change that reads the hidden state is composed with `h`",
            )  # fmt: skip
            return
        self._report.error(
            "M316", f"`{target}` {_VARIES[wanted.level]}, and `{name}` {_VARIES[value.type.level]}",
            at, help="compose what reads single tokens with `h`",
        )  # fmt: skip

    def _check_lengths(self, done: list[Composition], clauses: Clauses) -> None:
        """Keys and values come in pairs, so they are lengthened by the same number."""
        lengths = {c.target: c.value.type.dims[0] for c in done if c.target in ("k", "v")}
        keys = _LONGER["k"]
        if lengths and lengths.get("k", keys) != lengths.get("v", keys):
            entry = next(c for c in clauses.compositions if c.node.target.text in lengths)
            self._report.error(
                "T208", f"there would be {lengths.get('k', keys)} keys and "
                f"{lengths.get('v', keys)} values", entry.place,
                help="compose `k` and `v` alike",
            )  # fmt: skip


def _shape_help(target: str, have: Type, wanted: Type) -> str | None:
    if len(have.dims) == 2 and have.dims[::-1] == wanted.dims:
        return "`transpose(…)` of it fits"
    if have.size == wanted.size:
        return f"`reshape(…, {', '.join(map(str, wanted.dims))})` of it fits"
    if target == "h" and wanted.dims[:1] == (Dim.of("tokens"),):
        return "`concat(P, h)` keeps the sequence's own tokens"
    return None

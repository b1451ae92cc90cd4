"""What the names of a method stand for at one kind of site."""

from typing import TYPE_CHECKING, Literal

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.dims import Dim
from peftlang.ir.expr import DimValue, Expr, Number, Ref
from peftlang.ir.positions import SITE_DIMS
from peftlang.ir.types import Level, Type
from peftlang.lower.expressions import hyper_value
from peftlang.lower.names import SITE_VALUES, Names
from peftlang.lower.report import Place, Report
from peftlang.lower.scopes import Site, positions_with
from peftlang.syntax import nodes as n

if TYPE_CHECKING:
    from peftlang.lower.methods import Wanted


class Resolver:
    """Resolves names.

    The method's own names come first, then the site's, then, in a clause after ``with``, the
    adapter's hyper-parameters, then dimensions.

    Args:
        wanted: The method as its use wants it.
        names: What the method declares.
        site: The kind of site.
        insertion: ``parallel`` or ``sequential``.
        report: Takes what is wrong.

    Attributes:
        tensors: Types of parameters, buffers and inputs; None after an error.
        lets: Values of lets and of the function; None after an error.
    """

    def __init__(
        self, wanted: "Wanted", names: Names, site: Site, insertion: str, report: Report
    ) -> None:
        self._wanted, self._names, self._site = wanted, names, site
        self._insertion, self._report = insertion, report
        self.tensors: dict[str, Type | None] = {}
        self.lets: dict[str, Expr | None] = {}

    def value(self, node: n.Name, source: Source) -> Expr | None:
        """What a name stands for in a value; reports it, and returns None, when it is nothing."""
        name, place = node.text, Place(source, node.span)
        if name in self._names.declared:
            return self._declared(name, node, place)
        return self._given(name, node, place)

    def _declared(self, name: str, node: n.Name, place: Place) -> Expr | None:
        if name in self._names.twice:
            return None
        if name in self._names.hypers:
            return self._hyper(name, self._names.hypers[name], node, place)
        type_ = self.tensors.get(name)
        if type_ is not None:
            return Ref(name, type_, (node.span.start, node.span.end))
        return self.lets.get(name)

    def _given(self, name: str, node: n.Name, place: Place) -> Expr | None:
        if name in self._site.values:
            return self._site_value(name, place)
        outer = not self._wanted.definition.holds(place.source, place.span)
        if outer and name in self._names.outer:
            return self._outer(name, node, place)
        if name in SITE_DIMS:
            return DimValue(Dim.of(name), Type(kind="int"), (node.span.start, node.span.end))
        self._unknown(name, place)
        return None

    def _hyper(self, name: str, kind: str, node: n.Name, place: Place) -> Expr | None:
        if kind in ("fn", "str"):
            what = "a function: call it" if kind == "fn" else "a text, which has no value here"
            self._report.error("T211", f"`{name}` is {what}", place)
            return None
        return hyper_value(name, kind, node.span)

    def _outer(self, name: str, node: n.Name, place: Place) -> Expr | None:
        value, kind = self._wanted.outer.get(name), self._names.outer[name]
        if kind in ("fn", "str"):
            return self._hyper(name, kind, node, place)
        if value is None:
            return hyper_value(name, kind, node.span)
        number: Literal["int", "float"] = "int" if kind == "int" else "float"
        return Number(value, Type(kind=number), (node.span.start, node.span.end))

    def _site_value(self, name: str, place: Place) -> Expr | None:
        type_ = self._site.values[name]
        if self._insertion == "sequential" and name == "W" and Dim.of("d_x") in type_.dims:
            self._report.error(
                "M313", "`W` is read with sequential insertion, where `d_x` is the size of the "
                "output, so that nothing names its columns", place,
                help="use `insertion parallel`",
            )  # fmt: skip
            return None
        return Ref(name, type_, (place.span.start, place.span.end))

    def _unknown(self, name: str, place: Place) -> None:
        if name in SITE_VALUES:
            having = positions_with(name)
            shown = ", ".join(having[:6]) + (", …" if len(having) > 6 else "")
            advice: str | None = f"these have it: {shown}"
            if name == "x":
                advice = "use `h`, or a position that reads something: " + _few(name)
            where = "no position has all that this method reads: "
            start = (
                f"a site at {self._site.position}" if self._site.certain else where + "one like "
            )
            if not self._site.certain:
                start += self._site.position
            self._report.error("S403", f"{start} has no `{name}`", place, help=advice)
            return
        known = {*self._names.declared, *self._site.values, *SITE_DIMS}
        self._report.error("N102", f"`{name}` is not known here", place,
                           help=did_you_mean(name, known))  # fmt: skip

    def initial(self, node: n.Name, source: Source) -> Expr | None:
        """Names of an initial value: what is there before the model runs."""
        name, place = node.text, Place(source, node.span)
        if name in self._names.hypers or name not in self._names.declared:
            site = self._site.values.get(name)
            if site is None or site.level is Level.CONST or name in self._names.hypers:
                return self.value(node, source)
            what = "differs from token to token"
        elif self.tensors.get(name) is not None:
            return self.value(node, source)
        else:
            what = f"is {self._names.declared[name].what} of the method"
            if self._names.declared[name].what in ("a parameter", "a buffer"):
                what = "is declared after it"
        self._report.error(
            "M315", f"an initial value cannot read `{name}`, which {what}", place,
            help="it may read `W`, `b`, dimensions, hyper-parameters, and tensors declared before",
        )  # fmt: skip
        return None


def _few(name: str) -> str:
    return ", ".join(positions_with(name)[:6]) + ", …"

"""The names that a method declares, and what may not share a name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from peftlang.ir.dims import Dim
from peftlang.ir.positions import POSITIONS, SITE_DIMS, Scope
from peftlang.lower.clauses import Clauses
from peftlang.lower.expressions import CALLABLE
from peftlang.lower.report import Place, Report
from peftlang.lower.tree import read
from peftlang.lower.units import Definition
from peftlang.lower.values import Values
from peftlang.syntax import nodes as n

SITE_VALUES = frozenset(name for scope in POSITIONS.values() for name in scope)
"""Every name that some position has in scope."""

_ALWAYS = frozenset({"x", "h", "W"})
"""Values whose names no declaration may take where the site has them."""


@dataclass(frozen=True)
class Declared:
    """One declared name."""

    what: str
    place: Place


@dataclass
class Names:
    """What the names of a method are.

    Attributes:
        declared: Every declared name but those given twice.
        hypers: Kind of every hyper-parameter.
        outer: Hyper-parameters of the adapter, which clauses after ``with`` may read.
        position: Where the method's position is said.
        twice: Names declared twice, which nothing more is said of.
    """

    declared: dict[str, Declared] = field(default_factory=dict)
    hypers: dict[str, str] = field(default_factory=dict)
    outer: Mapping[str, str] = field(default_factory=dict)
    position: Place | None = None
    twice: set[str] = field(default_factory=set)

    @property
    def functions(self) -> frozenset[str]:
        return frozenset(name for name, kind in self.hypers.items() if kind == "fn")

    @property
    def symbols(self) -> dict[str, Dim]:
        """Whole-number hyper-parameters, which are dimensions too."""
        return {name: Dim.of(name) for name, kind in self.hypers.items() if kind == "int"}

    @property
    def variables(self) -> dict[str, str]:
        """What every name but functions and whole numbers is, in words."""
        return {
            name: entry.what
            for name, entry in self.declared.items()
            if self.hypers.get(name) not in ("fn", "int")
        }

    def outer_symbols(self, values: Values) -> dict[str, Dim]:
        """The adapter's whole numbers as dimensions: their values where these are known."""
        found: dict[str, Dim] = {}
        for name, kind in self.outer.items():
            value = values.get(name)
            if kind == "int":
                found[name] = Dim.of(value if isinstance(value, int) else name)
        return found


def declare(definition: Definition, clauses: Clauses, report: Report) -> Names:
    """The names of a method; reports those given twice (N101) and those that hide (N112)."""
    assert isinstance(definition.node, n.Method)
    names = Names()
    for ident, what, place in _declarations(definition, clauses):
        if ident in names.declared:
            names.twice.add(ident)
            report.error(
                "N101", f"`{ident}` is declared twice", place,
                labels=[(names.declared[ident].place, "first here")],
            )  # fmt: skip
            continue
        names.declared[ident] = Declared(what, place)
        if ident in SITE_DIMS:
            report.error("N112", f"`{ident}` is a dimension of every site", place,
                         help="give it another name")  # fmt: skip
    for parameter in definition.node.parameters:
        names.hypers.setdefault(parameter.name.text, parameter.type.text)
    _check_called(names, clauses, report)
    return names


def _declarations(definition: Definition, clauses: Clauses) -> Iterator[tuple[str, str, Place]]:
    node, unit = definition.node, definition.unit
    for parameter in node.parameters:
        article = "an" if parameter.type.text == "int" else "a"
        what = f"{article} {parameter.type.text} hyper-parameter"
        yield parameter.name.text, what, unit.place(parameter.name)
    for tensor in clauses.tensors:
        what = "a parameter" if isinstance(tensor.node, n.Param) else "a buffer"
        yield tensor.node.name.text, what, Place(tensor.source, tensor.node.name.span)
    for entry in clauses.inputs:
        yield entry.node.name.text, "an input", Place(entry.source, entry.node.name.span)
    for carry in clauses.carries:
        yield carry.node.name.text, "a carried state", Place(carry.source, carry.node.name.span)
    for tap in clauses.taps:
        yield tap.node.name.text, "a tap", Place(tap.source, tap.node.name.span)
    for let in clauses.lets:
        yield let.node.name.text, "a `let`", Place(let.source, let.node.name.span)
    if clauses.function:
        name = clauses.function.node.name
        yield name.text, "the function's value", Place(clauses.function.source, name.span)


def _check_called(names: Names, clauses: Clauses, report: Report) -> None:
    """A name that is also a builtin confuses only where that builtin is called."""
    shared = {name for name in names.declared if name in CALLABLE}
    if not shared:
        return
    called = {
        name for placed in clauses.expressions() for name, node in read(placed.node)
        if isinstance(node, n.Ident)
    }  # fmt: skip
    for name in sorted(shared):
        if name in called or name in names.functions:
            entry = names.declared[name]
            report.error("N112", f"`{name}` is a function of the language, which is called here",
                         entry.place, help="give it another name")  # fmt: skip


def check_hiding(
    names: Names, clauses: Clauses, scope: Scope, position: str, report: Report
) -> None:
    """Report declarations that hide a value of the site in a way that confuses (N112)."""
    targets = {c.node.target.text for c in clauses.compositions}
    for name, entry in names.declared.items():
        if name in scope and (name in _ALWAYS or name in targets):
            report.error("N112", f"`{name}` is what a site at {position} calls its own",
                         entry.place, help="give it another name")  # fmt: skip

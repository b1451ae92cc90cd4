"""What a method declares: its clauses as one use has them, and the names that these declare."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from peftlang.ir.dims import Dim
from peftlang.ir.positions import SITE_DIMS
from peftlang.lower.constants import CALLABLE
from peftlang.lower.flatten import FlatUse
from peftlang.lower.load import Definition
from peftlang.lower.report import Place, Placed, Report
from peftlang.lower.walk import walk
from peftlang.syntax import nodes as n

T = TypeVar("T", bound=n.Node)

DECLARING = n.Param | n.Buffer | n.Input | n.Carry | n.Tap | n.Let | n.Function
"""The clauses that declare a name."""

_WHAT = {
    n.Param: "a parameter",
    n.Buffer: "a buffer",
    n.Input: "an input",
    n.Carry: "a carried state",
    n.Tap: "a tap",
    n.Let: "a `let`",
    n.Function: "the function's value",
}
"""What they declare, in words."""

_SHOWN: dict[str, type[n.Node]] = {
    "function": n.Function,
    "insertion": n.Insertion,
    "composition": n.Composition,
    "sharing": n.Sharing,
    "penalty": n.Penalty,
    "rate": n.Rate,
}
"""The clauses that `explain` shows, besides the position."""


@dataclass(frozen=True)
class Clauses:
    """The clauses of a method, those of ``with`` and ``at`` in place of its own."""

    placed: tuple[Placed[n.Clause], ...]

    def of(self, kind: type[T]) -> list[Placed[T]]:
        return [Placed(c.node, c.source) for c in self.placed if isinstance(c.node, kind)]

    def only(self, kind: type[T]) -> Placed[T] | None:
        """The clause of a kind of which there is one at most."""
        return next(iter(self.of(kind)), None)

    @property
    def tensors(self) -> list[Placed[n.Param | n.Buffer]]:
        return [
            Placed(clause.node, clause.source)
            for clause in self.placed
            if isinstance(clause.node, n.Param | n.Buffer)
        ]

    @property
    def position(self) -> Placed[n.Selector] | None:
        clause = self.only(n.Position)
        return clause.beside(clause.node.selector) if clause else None

    @property
    def nodes(self) -> Iterator[n.Clause]:
        return (clause.node for clause in self.placed)

    def texts(self) -> dict[str, str]:
        """Source text of each dimension, as `explain` shows it."""
        texts = {"position": [self.position.text]} if self.position else {}
        for word, kind in _SHOWN.items():
            found = [clause.text.removeprefix(word) for clause in self.of(kind)]
            if found:
                texts[word] = found
        return {
            word: "\n".join(" ".join(text.split()) for text in several)
            for word, several in texts.items()
        }


@dataclass(frozen=True)
class Declared:
    """A name that is declared: what it is in words, and where."""

    what: str
    place: Place


@dataclass(frozen=True)
class Declarations:
    """A method as one use has it.

    Attributes:
        names: Every name that it declares; of one that is declared twice, the first.
        twice: The names that are declared twice, of which nothing more is said.
    """

    use: FlatUse
    clauses: Clauses
    names: dict[str, Declared]
    twice: frozenset[str]

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Type of every hyper-parameter of the method."""
        return self.use.method.kinds

    @cached_property
    def functions(self) -> frozenset[str]:
        """The hyper-parameters that are functions."""
        return frozenset(name for name, kind in self.kinds.items() if kind == "fn")

    @cached_property
    def sizes(self) -> dict[str, Dim]:
        """Whole-number hyper-parameters, which are dimensions too.

        Those of the adapter, which clauses after ``with`` may read, are their values where these
        are known.
        """
        outer = self.use.adapter.kinds if self.use.adapter else {}
        found: dict[str, Dim] = {}
        for name in (name for name, kind in outer.items() if kind == "int"):
            value = self.use.outer.get(name)
            found[name] = Dim.of(value if isinstance(value, int) else name)
        own = {name: Dim.of(name) for name, kind in self.kinds.items() if kind == "int"}
        return {**found, **own}

    def variable(self, name: str) -> str | None:
        """What a declared name is, in words; None for a function, a whole number, no name."""
        known = name in self.names and self.kinds.get(name) not in ("fn", "int")
        return self.names[name].what if known else None


def declare(use: FlatUse, report: Report) -> Declarations:
    """The clauses of a use and the names that they declare.

    Args:
        use: A method as it is used.
        report: Takes M301, a clause given twice; N101, a name declared twice; N112, one that
            hides a dimension of every site or a function that is called.
    """
    clauses = _in_force(use, report)
    names: dict[str, Declared] = {}
    twice: set[str] = set()
    for name, declared in _declared(use, clauses):
        if name in names:
            twice.add(name)
            labels = [(names[name].place, "first here")]
            report.error("N101", f"`{name}` is declared twice", declared.place, labels=labels)
            continue
        names[name] = declared
        if name in SITE_DIMS:
            message = f"`{name}` is a dimension of every site"
            report.error("N112", message, declared.place, help="give it another name")
    found = Declarations(use, clauses, names, frozenset(twice))
    _check_called(found, report)
    return found


def _declared(use: FlatUse, clauses: Clauses) -> Iterator[tuple[str, Declared]]:
    for parameter in use.method.node.parameters:
        kind, place = parameter.type.text, use.method.unit.place(parameter.name)
        article = "an" if kind == "int" else "a"
        yield parameter.name.text, Declared(f"{article} {kind} hyper-parameter", place)
    for clause in clauses.placed:
        if isinstance(clause.node, DECLARING):
            name, what = clause.node.name, _WHAT[type(clause.node)]
            yield name.text, Declared(what, clause.beside(name).place)


def own_names(method: Definition) -> set[str]:
    """Every name that a method's own text declares."""
    parameters = {parameter.name.text for parameter in method.node.parameters}
    clauses = (clause for clause in method.node.clauses if isinstance(clause, DECLARING))
    return parameters | {clause.name.text for clause in clauses}


def _check_called(found: Declarations, report: Report) -> None:
    """A name that is also a builtin confuses only where that builtin is called."""
    called = {node.function.text for node in walk(*found.clauses.nodes) if isinstance(node, n.Call)}
    for name in sorted(found.names.keys() & CALLABLE.keys() & (called | found.functions)):
        message = f"`{name}` is a function of the language, which is called here"
        report.error("N112", message, found.names[name].place, help="give it another name")


def _in_force(use: FlatUse, report: Report) -> Clauses:
    """A clause of ``with`` replaces all of the method's own clauses of its kind."""
    source, node = use.method.unit.source, use.method.node
    assert isinstance(node, n.Method)
    given = list(use.overrides)
    if use.at is not None:
        given.append(use.at.beside(n.Position(use.at.node.span, use.at.node)))
    given = _each_once(given, report)
    kinds = {type(clause.node) for clause in given}
    own = _each_once([Placed(clause, source) for clause in node.clauses], report)
    if n.Sharing in kinds:
        own = [Placed(_unshared(clause.node), source) for clause in own]
    return Clauses((*(clause for clause in own if type(clause.node) not in kinds), *given))


def _unshared(node: n.Clause) -> n.Clause:
    return replace(node, shared=None) if isinstance(node, n.Param | n.Buffer) else node


def _each_once(clauses: Iterable[Placed[n.Clause]], report: Report) -> list[Placed[n.Clause]]:
    """The clauses without those that repeat what is said once (M301)."""
    first: dict[str, Placed[n.Clause]] = {}
    kept: list[Placed[n.Clause]] = []
    for clause in clauses:
        node, what, advice = clause.node, "", None
        if isinstance(node, n.Position | n.Function | n.Insertion):
            what = f"`{type(node).__name__.lower()}`"
        elif isinstance(node, n.Composition):
            what = f"the composition of `{node.target.text}`"
            advice = "say both changes in one expression"
        if what in first:
            labels = [(first[what].place, "first")]
            report.error("M301", f"{what} is given twice", clause.place, help=advice, labels=labels)
            continue
        kept.append(clause)
        if what:
            first[what] = clause
    return kept

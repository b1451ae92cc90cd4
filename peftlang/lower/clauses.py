"""A method's clauses as one use has them: its own, with those of ``with`` and ``at`` in place."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from peftlang.diagnostics import Source
from peftlang.lower.report import Place, Report
from peftlang.lower.units import Definition
from peftlang.syntax import nodes as n

T = TypeVar("T", bound=n.Node)


@dataclass(frozen=True)
class Placed(Generic[T]):
    """A node and the text that it is in."""

    node: T
    source: Source

    @property
    def place(self) -> Place:
        return Place(self.source, self.node.span)

    @property
    def text(self) -> str:
        return self.source.slice(self.node.span)


@dataclass
class Clauses:
    """The clauses of a method, sorted by what they say."""

    tensors: list[Placed[n.Param | n.Buffer]] = field(default_factory=list)
    inputs: list[Placed[n.Input]] = field(default_factory=list)
    carries: list[Placed[n.Carry]] = field(default_factory=list)
    taps: list[Placed[n.Tap]] = field(default_factory=list)
    lets: list[Placed[n.Let]] = field(default_factory=list)
    position: Placed[n.Selector] | None = None
    function: Placed[n.Function] | None = None
    insertion: Placed[n.Insertion] | None = None
    compositions: list[Placed[n.Composition]] = field(default_factory=list)
    sharings: list[Placed[n.Sharing]] = field(default_factory=list)
    shared_inline: bool = True
    penalties: list[Placed[n.Penalty]] = field(default_factory=list)
    rates: list[Placed[n.Rate]] = field(default_factory=list)
    ensures: list[Placed[n.Ensure]] = field(default_factory=list)

    def values(self) -> Iterator[Placed[n.Expr]]:
        """Every expression that is computed at a site."""
        for let in self.lets:
            yield Placed(let.node.value, let.source)
        if self.function:
            yield Placed(self.function.node.value, self.function.source)
        for composition in self.compositions:
            yield Placed(composition.node.value, composition.source)
        for penalty in self.penalties:
            yield Placed(penalty.node.value, penalty.source)

    def _of_streams(self) -> Iterator[Placed[n.Expr]]:
        for carry in self.carries:
            for expr in (*carry.node.dims, carry.node.init):
                yield Placed(expr, carry.source)
        for tap in self.taps:
            for expr in (*tap.node.dims, *_layers(tap.node.selector)):
                yield Placed(expr, tap.source)

    def expressions(self) -> Iterator[Placed[n.Expr]]:
        """Every expression: shapes, initial values, what is computed, what is ensured."""
        yield from self.values()
        for tensor in self.tensors:
            for expr in (*tensor.node.dims, tensor.node.init):
                yield Placed(expr, tensor.source)
        for entry in self.inputs:
            for expr in (*entry.node.dims, entry.node.type):
                yield Placed(expr, entry.source)
        for rate in self.rates:
            yield Placed(rate.node.value, rate.source)
        for expr, source in self._group_sizes():
            yield Placed(expr, source)
        yield from self._of_streams()
        for ensure in self.ensures:
            for expr in ensure.node.properties:
                yield Placed(expr, ensure.source)

    def _group_sizes(self) -> Iterator[tuple[n.Expr, Source]]:
        axes = [(tensor.node.shared, tensor.source) for tensor in self.tensors]
        axes += [(sharing.node.axis, sharing.source) for sharing in self.sharings]
        each = ((one, source) for axis, source in axes for one in n.axes_of(axis))
        return ((axis.size, source) for axis, source in each if isinstance(axis, n.Grouped))

    def texts(self) -> dict[str, str]:
        """Source text of each dimension, as `explain` shows it."""
        found: dict[str, list[str]] = {}

        def add(key: str, text: str) -> None:
            found.setdefault(key, []).append(" ".join(text.split()))

        if self.position:
            add("position", self.position.text)
        for key, entry in (("function", self.function), ("insertion", self.insertion)):
            if entry is not None:
                add(key, entry.text.removeprefix(key))
        for composition in self.compositions:
            add("composition", composition.text.removeprefix("composition"))
        for sharing in self.sharings:
            add("sharing", sharing.text.removeprefix("sharing"))
        for penalty in self.penalties:
            add("penalty", penalty.text.removeprefix("penalty"))
        for rate in self.rates:
            add("rate", rate.text.removeprefix("rate"))
        return {key: "\n".join(lines) for key, lines in found.items()}


def _layers(selector: n.Selector) -> Iterator[n.Expr]:
    scopes = selector.scopes if isinstance(selector, n.Scoped) else ()
    for scope in scopes:
        if isinstance(scope, n.Layers):
            for entry in scope.ranges:
                yield from (end for end in (entry.first, entry.last) if end is not None)


def gather(
    definition: Definition, overrides: Sequence[Placed[n.Clause]], at: Placed[n.Selector] | None,
    report: Report,
) -> Clauses:  # fmt: skip
    """The clauses of a method, with overrides in place of its own.

    A clause of ``with`` replaces the whole dimension that it belongs to: a composition there
    replaces every composition of the method, whatever its target.

    Args:
        definition: A method.
        overrides: Clauses given at the use.
        at: The selector given at the use.
        report: Takes M301, a clause given twice.
    """
    assert isinstance(definition.node, n.Method)
    source = definition.unit.source
    found = Clauses()
    _sort(found, [Placed(clause, source) for clause in definition.node.clauses], report)
    instead = Clauses()
    _sort(instead, overrides, report)
    if instead.function:
        found.function = instead.function
    found.insertion = instead.insertion or found.insertion
    found.compositions = instead.compositions or found.compositions
    if instead.sharings:
        found.sharings, found.shared_inline = instead.sharings, False
    found.penalties = instead.penalties or found.penalties
    found.rates = instead.rates or found.rates
    found.ensures = instead.ensures or found.ensures
    found.position = at or found.position
    return found


_LISTS = {
    n.Param: "tensors", n.Buffer: "tensors", n.Input: "inputs", n.Let: "lets",
    n.Carry: "carries", n.Tap: "taps",
    n.Sharing: "sharings", n.Penalty: "penalties", n.Ensure: "ensures",
    n.Rate: "rates",
}  # fmt: skip


def _sort(into: Clauses, clauses: Sequence[Placed[n.Clause]], report: Report) -> None:
    for clause in clauses:
        node, source = clause.node, clause.source
        match node:
            case n.Position() if _first(into.position, clause, "`position`", report):
                into.position = Placed(node.selector, source)
            case n.Function() if _first(into.function, clause, "`function`", report):
                into.function = Placed(node, source)
            case n.Insertion() if _first(into.insertion, clause, "`insertion`", report):
                into.insertion = Placed(node, source)
            case n.Composition():
                _composition(into, Placed(node, source), report)
            case _ if type(node) in _LISTS:
                getattr(into, _LISTS[type(node)]).append(clause)


def _first(before: Placed[T] | None, clause: Placed[n.Clause], what: str, report: Report) -> bool:
    if before is None:
        return True
    report.error("M301", f"{what} is given twice", clause.place, labels=[(before.place, "first")])
    return False


def _composition(into: Clauses, clause: Placed[n.Composition], report: Report) -> None:
    target = clause.node.target.text
    same = next((c for c in into.compositions if c.node.target.text == target), None)
    if same is None:
        into.compositions.append(clause)
        return
    report.error(
        "M301", f"the composition of `{target}` is given twice", clause.place,
        labels=[(same.place, "first")], help="say both changes in one expression",
    )  # fmt: skip

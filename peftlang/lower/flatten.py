"""Flattening: an adapter as one list of uses of methods, its nested adapters taken apart."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from peftlang.diagnostics import did_you_mean
from peftlang.lower.arguments import of_use, with_defaults
from peftlang.lower.constants import Values
from peftlang.lower.load import Definition, library_names
from peftlang.lower.report import Fault, Faults, Place, Placed, Report
from peftlang.lower.selectors import lower_selector
from peftlang.syntax import nodes as n

MAX_USES, MAX_NESTED = 1000, 32

ALL_USES = "uses"
"""After ``sharing … across`` in an adapter: every use that has the tensor."""


@dataclass(frozen=True)
class FlatUse:
    """A method as one use has it.

    Attributes:
        name: What the method is called there.
        method: Its definition.
        values: Values of its hyper-parameters.
        at: The selector after ``at``.
        overrides: The clauses after ``with``.
        adapter: The adapter that uses it; None for a method that is compiled by itself.
        outer: Values of the adapter's hyper-parameters, which ``at`` and ``with`` may read.
        place: The use, for messages.
    """

    name: str
    method: Definition
    values: Values
    at: Placed[n.Selector] | None = None
    overrides: tuple[Placed[n.Clause], ...] = ()
    adapter: Definition | None = None
    outer: Values = field(default_factory=dict)
    place: Place | None = None


@dataclass(frozen=True)
class Training:
    """A selector after ``train``, and the values that it may use."""

    selector: Placed[n.Selector]
    values: Values


@dataclass(frozen=True)
class FlatTie:
    """A tensor that uses are to have in common.

    Attributes:
        name: The tensor, where it is said.
        uses: Numbers of the uses.
        named: Whether each of them is named, so that each must have the tensor.
    """

    name: Placed[n.Ident]
    uses: tuple[int, ...]
    named: bool


@dataclass
class FlatAdapter:
    """What an adapter places, trains and shares, in order."""

    uses: list[FlatUse] = field(default_factory=list)
    training: list[Training] = field(default_factory=list)
    ties: list[FlatTie] = field(default_factory=list)


def flatten(definition: Definition, values: Values, report: Report) -> FlatAdapter:
    """What an adapter, or a method by itself, comes to.

    Args:
        definition: The adapter or method.
        values: Its hyper-parameters.
        report: Takes N104, N110, N111, M304, M312, M314 and the faults of arguments.
    """
    if definition.is_method:
        return FlatAdapter([FlatUse(definition.name, definition, values)])
    flattener = _Flattener(report)
    try:
        flattener.splice(definition, values, ())
    except _TooManyUses:
        return FlatAdapter()
    return flattener.flat


class _TooManyUses(Exception):
    """Ends the flattening of an adapter; it has been reported."""


class _Flattener:
    def __init__(self, report: Report) -> None:
        self._report = report
        self.flat = FlatAdapter()

    def splice(self, adapter: Definition, values: Values, within: tuple[Definition, ...]) -> None:
        """Add what an adapter does to the list; ``within`` are the adapters that use it."""
        source, first = adapter.unit.source, len(self.flat.uses)
        if not adapter.node.clauses:
            message = f"`{adapter.name}` has neither a use nor `train`"
            advice = "use a method, or `train` parameters of the base"
            self._report.error("M304", message, adapter.place, help=advice)
        for clause in adapter.node.clauses:
            if isinstance(clause, n.Train):
                selector = Placed(clause.selector, source)
                self.flat.training.append(Training(selector, values))
            elif isinstance(clause, n.Use):
                with self._report.faults(source):
                    self._use(adapter, Placed(clause, source), values, within)
            if len(self.flat.uses) > MAX_USES:
                message = f"more than {MAX_USES} uses in one adapter"
                self._report.error("M312", message, adapter.place)
                raise _TooManyUses
        if not self._report.failed:
            ties = [Placed(c, source) for c in adapter.node.clauses if isinstance(c, n.Tie)]
            for made in self._report.each(ties, lambda tie: self._ties(tie, first)):
                self.flat.ties += made

    def _use(
        self,
        adapter: Definition,
        use: Placed[n.Use],
        outer: Values,
        within: tuple[Definition, ...],
    ) -> None:
        used, at = _definition(adapter, use.node.method), use.node.at
        mine = Report()
        values = with_defaults(used, of_use(used, use, outer, mine), mine)
        self._report.extend(mine.diagnostics)
        if mine.failed:
            # Nothing more can be said of this use than what is wrong with its place.
            if at is not None:
                lower_selector(at, outer)
        elif used.is_method:
            self.flat.uses.append(
                FlatUse(
                    use.node.method.text,
                    used,
                    values,
                    at=None if at is None else use.beside(at),
                    overrides=tuple(use.beside(clause) for clause in use.node.overrides),
                    adapter=adapter,
                    outer=outer,
                    place=adapter.unit.place(use.node.method),
                )
            )
        else:
            _check_nesting(used, use.node, (*within, adapter))
            self.splice(used, values, (*within, adapter))

    def _ties(self, tie: Placed[n.Tie], first: int) -> list[FlatTie]:
        """The ties of a clause of an adapter whose uses are those from number ``first`` on."""
        labels = labels_of(use.name for use in self.flat.uses[first:])
        named = [use.text for use in tie.node.uses] != [ALL_USES]
        for use in tie.node.uses if named else ():
            if use.text not in labels:
                shown = ", ".join(f"`{label}`" for label in labels)
                there_are = f"there are {shown}; `across {ALL_USES}` means all"
                advice = did_you_mean(use.text, labels) or there_are
                raise Fault("N104", f"there is no use `{use.text}` here", use, help=advice)
        chosen = [use.text for use in tie.node.uses] if named else labels
        uses = tuple(first + labels.index(label) for label in chosen)
        return [FlatTie(tie.beside(name), uses, named) for name in tie.node.names]


def _definition(adapter: Definition, name: n.Ident) -> Definition:
    unit = adapter.unit
    if name.text in unit.names:
        return unit.names[name.text]
    for item, _ in unit.imports:
        if any(name.text == (entry.alias or entry.name).text for entry in item.names):
            raise Faults  # What is wrong with the import has been said.
    advice = did_you_mean(name.text, unit.names)
    if advice is None and name.text in library_names():
        advice = f"import it: `from {name.text} import {name.text}`"
    raise Fault("N104", f"there is no method `{name.text}`", name, help=advice)


def _check_nesting(used: Definition, use: n.Use, within: tuple[Definition, ...]) -> None:
    if any(used.node is outer.node for outer in within):
        message = f"the adapter `{used.name}` is used within itself"
        raise Fault("M312", message, use.method)
    if len(within) > MAX_NESTED:
        message = f"adapters are nested more than {MAX_NESTED} deep"
        raise Fault("M312", message, use.method)
    if use.at is not None or use.overrides:
        message = (
            f"`{used.name}` is an adapter of its own uses, so `at` and `with` could mean any of "
            "them"
        )
        advice = "give `at` and `with` where it uses its methods"
        raise Fault("M314", message, use.method, help=advice)


def labels_of(names: Iterable[str]) -> list[str]:
    """The labels of uses, in order, by what each is called: numbered from the second one on."""
    taken: dict[str, int] = {}
    for name in names:
        label = name
        while label in taken:
            taken[name] += 1
            label = f"{name}_{taken[name]}"
        taken[label] = 1
    return list(taken)

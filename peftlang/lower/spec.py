"""A checked spec: what it defines, and which of it is compiled."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from peftlang.diagnostics import Diagnostic, Source, Span, did_you_mean
from peftlang.ir.method import HyperParameter, fixed
from peftlang.lower.arguments import hyper_parameters, known, with_defaults
from peftlang.lower.check import lower_ties
from peftlang.lower.contracts import equivalents
from peftlang.lower.flatten import flatten, labels_of
from peftlang.lower.load import Definition, Loader, Unit, find_source
from peftlang.lower.methods import lower_use
from peftlang.lower.report import Place, Report, SpecError
from peftlang.lower.selectors import lower_selector

NOTHING_DEFINED = "this spec defines no method and no adapter"


@dataclass(frozen=True)
class Entry:
    """A method or adapter of a spec.

    Attributes:
        name: As defined.
        kind: ``method`` or ``adapter``.
        doc: Its documentation, without the quotes.
        hypers: Its hyper-parameters; a default is None where a value must be given.
        place: Where it is defined.
    """

    name: str
    kind: Literal["method", "adapter"]
    doc: str
    hypers: tuple[HyperParameter, ...]
    place: Place = field(compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Spec:
    """A spec without errors.

    Attributes:
        source: Its text.
        entries: What it defines, in order; imported names are not among them.
        warnings: What works but is probably not meant.
    """

    source: Source
    entries: tuple[Entry, ...]
    warnings: tuple[Diagnostic, ...]
    unit: Unit = field(repr=False)

    @property
    def methods(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.kind == "method")

    @property
    def adapters(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.kind == "adapter")

    def main(self, name: str | None = None) -> Entry:
        """What is compiled: the one named, else the only adapter, else the only method.

        Args:
            name: A method or adapter that the spec defines or imports.

        Raises:
            SpecError: N104, no such name; M310, nothing is named and there are several.
        """
        if name is not None:
            return self._named(name)
        for candidates in (self.adapters, self._methods_by_themselves):
            if len(candidates) == 1:
                return candidates[0]
            if candidates:
                first = candidates[0].name
                shown = ", ".join(f"`{entry.name}`" for entry in candidates)
                message = f"`{self.source.name}` defines {shown}, and none is named"
                advice = f'name one: `--name {first}`, or `name="{first}"`'
                raise SpecError(message, code="M310", help=advice)
        raise SpecError(f"`{self.source.name}` defines no method and no adapter", code="M310")

    @property
    def _methods_by_themselves(self) -> tuple[Entry, ...]:
        """Methods, less those that only stand there for another's `equivalent`."""
        named = {
            id(other.node)
            for method in self.unit.own
            for _, other in equivalents(method.node.clauses, method)
        }
        nodes = {definition.name: id(definition.node) for definition in self.unit.own}
        kept = tuple(entry for entry in self.methods if nodes[entry.name] not in named)
        return kept or self.methods

    def _named(self, name: str) -> Entry:
        names = self.unit.names
        if name not in names:
            shown = ", ".join(f"`{found}`" for found in names)
            message = f"`{self.source.name}` has no method or adapter `{name}`"
            advice = did_you_mean(name, names) or f"it has {shown}"
            raise SpecError(message, code="N104", help=advice)
        return _entry(names[name])


def _entry(definition: Definition) -> Entry:
    hypers = hyper_parameters(definition, with_defaults(definition, {}, Report()))
    kind: Literal["method", "adapter"] = "method" if definition.is_method else "adapter"
    return Entry(definition.name, kind, definition.doc, hypers, definition.place)


def load(spec: str | Path) -> Spec:
    """Read and check a spec and all that it imports.

    Args:
        spec: The name of a spec of the standard library (``lora``), the path of a .peft file,
            or the text of a spec (it has a line break or a brace).

    Raises:
        SpecError: there are errors (families P, N, T, M, S; the error carries them all), or there
            is no such spec (D601, with the nearest name).
    """
    source, library = find_source(spec)
    report = Report()
    unit = _checked(source, library, report)
    if not list(unit.own) and not unit.names:
        report.error("M310", NOTHING_DEFINED, None)
    report.check()
    entries = tuple(_entry(definition) for definition in unit.own)
    return Spec(source, entries, report.diagnostics, unit)


def check(specs: Iterable[Source | str | Path]) -> list[Diagnostic]:
    """Everything that is wrong with specs, and warnings, sorted by place.

    Args:
        specs: Sources, or what `load` takes.

    Raises:
        SpecError: D601, a spec does not exist; mistakes in one are returned, never raised.
    """
    found: list[Diagnostic] = []
    for spec in specs:
        source, library = (spec, False) if isinstance(spec, Source) else find_source(spec)
        report = Report()
        unit = _checked(source, library, report)
        if unit.readable and not unit.tree.items:
            report.error("M310", NOTHING_DEFINED, Place(source, unit.tree.span))
        found.extend(d for d in report.diagnostics if d not in found)
    return found


def _checked(source: Source, library: bool, report: Report) -> Unit:
    loader = Loader(report)
    unit = loader.load(source, library=library)
    for read in loader.units:
        mine = Report()
        for definition in read.own:
            _check(definition, mine)
        # Warnings are for the author of the text that is checked.
        found = _meant(unit, mine.diagnostics) if read is unit else mine.diagnostics
        sure = (d for d in found if not _may_follow(d, read))
        report.extend(d for d in sure if read is unit or d.severity == "error")
    return unit


# What is said of a definition of which something is missing, and of uses of it.
_OF_A_METHOD = frozenset({"M302", "M304", "M309", "M318", "T203", "T208"})
_OF_ITS_USES = frozenset({"M304", "M306", "M309", "N110"})


def _may_follow(diagnostic: Diagnostic, unit: Unit) -> bool:
    """Whether this may be wrong only because a clause could not be read, which was said."""
    span, own = diagnostic.span or Span(0, 0), list(unit.own)
    lost, codes = [*unit.tree.lost], {"N104"} if unit.tree.lost else set()
    for definition in own:
        if definition.node.span.start <= span.start < definition.node.span.end:
            lost += definition.node.lost
            codes |= _OF_A_METHOD if definition.node.lost else set()
            if not definition.is_method and any(other.node.lost for other in own):
                codes |= _OF_ITS_USES
    names = {one.name.text for one in lost if one.name is not None}
    read = re.findall(r"\w+", unit.source.slice(span))
    vague = diagnostic.code in codes or not names.isdisjoint(read)
    return vague or (bool(lost) and diagnostic.severity != "error")


def _check(definition: Definition, report: Report) -> None:
    """Check a method or adapter as far as its own defaults say."""
    mine = Report()
    flat = flatten(definition, with_defaults(definition, {}, mine), mine)
    methods = [lower_use(use, mine) for use in flat.uses]
    for training in flat.training:
        with mine.faults(training.selector.source):
            lower_selector(training.selector.node, training.values, train=True)
    if not mine.failed:
        sound = [
            fixed(method, known(use.values))
            for use, method in zip(flat.uses, methods, strict=True)
            if method is not None
        ]
        lower_ties(flat.ties, sound, labels_of(use.name for use in flat.uses), mine)
    own = definition.unit.source
    report.extend(d for d in mine.diagnostics if d.severity == "error" or d.source is own)


def _meant(unit: Unit, found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Diagnostics, without M311 for methods that an adapter uses beside ones that train.

    A method that makes places in the sequence, say, which another one fills.
    """
    found = list(found)
    idle = {d.span for d in found if d.code == "M311" and d.span is not None}
    meant: set[Span] = set()
    for definition in unit.own if idle else ():
        if not definition.is_method:
            flat = flatten(definition, with_defaults(definition, {}, Report()), Report())
            places = {use.method.place for use in flat.uses}
            spans = {place.span for place in places if place.source is unit.source}
            if flat.training or len(spans) < len(places) or spans - idle:
                meant |= spans & idle
    return [d for d in found if d.code != "M311" or d.span not in meant]

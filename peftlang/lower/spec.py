"""A checked spec: what it defines, and which of it is compiled."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from peftlang.diagnostics import Diagnostic, PeftError, Source, Span, did_you_mean
from peftlang.ir.expr import Scalar
from peftlang.ir.method import HyperParameter, Method, fixed
from peftlang.lower.arguments import check_parameters, with_defaults
from peftlang.lower.inline import equivalents_of
from peftlang.lower.methods import Wanted, lower_method
from peftlang.lower.ranges import check_numbers, check_sizes
from peftlang.lower.report import Place, Report, SpecError
from peftlang.lower.ties import lower_ties, tied
from peftlang.lower.units import Definition, Loader, Unit, library_names, library_source
from peftlang.lower.uses import (
    Flat,
    arguments_of,
    check_placing,
    flatten,
    labels_of,
    lower_training,
)
from peftlang.syntax import nodes as n


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
                shown = ", ".join(f"`{entry.name}`" for entry in candidates)
                raise SpecError(
                    f"`{self.source.name}` defines {shown}, and none is named", code="M310",
                    help=f"name one: `--name {candidates[0].name}`, or "
                    f'`name="{candidates[0].name}"`',
                )  # fmt: skip
        raise SpecError(f"`{self.source.name}` defines no method and no adapter", code="M310")

    @property
    def _methods_by_themselves(self) -> tuple[Entry, ...]:
        """Methods, less those that only stand there for another's `equivalent`."""
        named = {id(other.node) for d in self.unit.own for _, other in equivalents_of(d)}
        known = {d.name: id(d.node) for d in self.unit.own}
        kept = tuple(entry for entry in self.methods if known[entry.name] not in named)
        return kept or self.methods

    def _named(self, name: str) -> Entry:
        known = self.unit.names
        if name not in known:
            shown = ", ".join(f"`{found}`" for found in known)
            raise SpecError(
                f"`{self.source.name}` has no method or adapter `{name}`", code="N104",
                help=did_you_mean(name, known) or f"it has {shown}",
            )  # fmt: skip
        return _entry(known[name])


def load(spec: str | Path) -> Spec:
    """Read and check a spec and all that it imports.

    Args:
        spec: The name of a spec of the standard library (``lora``), the path of a .peft file,
            or the text of a spec (it has a line break or a brace).

    Raises:
        SpecError: there are errors (families P, N, T, M, S; the error carries them all), or there
            is no such spec (D601, with the nearest name).
    """
    source, library = _source(spec)
    report = Report()
    unit = _checked(source, library, report)
    if not list(unit.own) and not unit.names:
        report.error("M310", "this spec defines no method and no adapter", None)
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
        source, library = (spec, False) if isinstance(spec, Source) else _source(spec)
        report = Report()
        unit = _checked(source, library, report)
        if unit.readable and not unit.tree.items:
            report.error("M310", "this spec defines no method and no adapter",
                         Place(source, unit.tree.span))  # fmt: skip
        found.extend(d for d in report.diagnostics if d not in found)
    return found


def _source(spec: str | Path) -> tuple[Source, bool]:
    if isinstance(spec, str) and ("\n" in spec or "{" in spec):
        return Source("<text>", spec), False
    library = library_source(spec) if isinstance(spec, str) else None
    if library is not None:
        return library, True
    path = Path(spec)
    try:
        if path.is_file():
            return Source.from_file(path), False
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read `{spec}`: {error}", code="D601") from error
    raise SpecError(
        f"there is no file `{spec}`, and no spec of that name in the standard library",
        code="D601", help=did_you_mean(str(spec), library_names()),
    )  # fmt: skip


def _checked(source: Source, library: bool, report: Report) -> Unit:
    loader = Loader(report)
    unit = loader.load(source, library=library)
    for known in loader.units:
        if known.readable:
            _check_unit(known, report, warn=known is unit)
    return unit


def _check_unit(unit: Unit, report: Report, *, warn: bool) -> None:
    mine = Report()
    for definition in unit.own:
        check_parameters(definition, mine)
        if isinstance(definition.node, n.Method):
            check_method(definition, mine)
    for definition in unit.own:
        if isinstance(definition.node, n.Adapter):
            check_adapter(definition, mine)
    found = mine.diagnostics
    if warn and any(d.code == "M311" for d in found):
        prepared = _prepare_for_others(unit, found)
        found = tuple(d for d in found if d.code != "M311" or d.span not in prepared)
    report.extend(d for d in found if warn or d.severity == "error")


def _prepare_for_others(unit: Unit, found: Iterable[Diagnostic]) -> set[Span]:
    """Where methods that train nothing are defined, which an adapter uses beside ones that do.

    A method that makes places in the sequence, say, which another method fills at each layer.
    """
    idle = {d.span for d in found if d.code == "M311" and d.span is not None}
    prepared: set[Span] = set()
    for definition in unit.own:
        if isinstance(definition.node, n.Adapter):
            flat = flatten(definition, with_defaults(definition, {}, Report()), Report())
            used = [placing.wanted.definition.place for placing in flat.placings]
            own = {place.span for place in used if place.source is unit.source}
            foreign = any(place.source is not unit.source for place in used)
            if flat.training or foreign or own - idle:
                prepared |= own & idle
    return prepared


def check_method(definition: Definition, report: Report) -> None:
    """Check a method with its own clauses and defaults."""
    mine = Report()
    values = with_defaults(definition, {}, mine)
    method = lower_method(Wanted(definition, values), mine)
    known = arguments_of(values)
    if (
        method is not None
        and not mine.failed
        and check_sizes(method, known, definition.place, mine)
    ):
        check_numbers(fixed(method, known), known, definition.place, mine)
    report.extend(mine.diagnostics)


def check_adapter(definition: Definition, report: Report) -> None:
    """Check an adapter and each of its uses, as far as defaults say."""
    mine = Report()
    values = with_defaults(definition, {}, mine)
    flat = flatten(definition, values, mine)
    broken = {id(d.source) for d in report.diagnostics if d.severity == "error"}
    methods: list[Method | None] = []
    for placing in flat.placings:
        again = id(placing.wanted.definition.unit.source) in broken
        own = Report()
        methods.append(check_placing(placing, own))
        # A method that is wrong by itself has been reported where it is defined.
        mine.extend(d for d in own.diagnostics if not again or d.severity == "error")
    list(lower_training(flat.training, mine))
    if not mine.failed:
        _check_ties(flat, methods, mine)
    report.extend(d for d in mine.diagnostics if d.severity == "error" or d.source
                  is definition.unit.source)  # fmt: skip


def _check_ties(flat: Flat, methods: Sequence[Method | None], report: Report) -> None:
    """Check what uses share, where every one of them is sound."""
    known = [
        fixed(method, arguments_of(placing.wanted.values))
        for method, placing in zip(methods, flat.placings, strict=True)
        if method is not None
    ]
    wanted = tied(flat, report)
    if len(known) == len(methods) and not report.failed:
        labels = labels_of(placing.name for placing in flat.placings)
        lower_ties(wanted, known, labels, report)


def _entry(definition: Definition) -> Entry:
    values: Mapping[str, Scalar | None] = with_defaults(definition, {}, Report())
    hypers = tuple(
        HyperParameter(
            name=p.name.text,
            kind=cast("Literal['int', 'float', 'bool', 'str', 'fn']", p.type.text),
            default=values.get(p.name.text),
            span=(p.span.start, p.span.end),
        )
        for p in definition.node.parameters
    )
    kind: Literal["method", "adapter"] = (
        "method" if isinstance(definition.node, n.Method) else "adapter"
    )
    return Entry(definition.name, kind, definition.doc, hypers, definition.place)


__all__ = ["Entry", "PeftError", "Spec", "check", "load"]

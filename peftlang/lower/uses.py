"""Uses: a method placed by an adapter, its arguments fixed and its clauses overridden."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from peftlang.diagnostics import did_you_mean
from peftlang.ir.expr import Scalar
from peftlang.ir.method import Method, Use, fixed
from peftlang.ir.selector import Selector
from peftlang.lower.arguments import of_use, with_defaults
from peftlang.lower.clauses import Placed
from peftlang.lower.methods import Wanted, lower_method
from peftlang.lower.ranges import check_numbers, check_sizes
from peftlang.lower.report import Place, Report
from peftlang.lower.selectors import Selectors
from peftlang.lower.units import Definition
from peftlang.lower.values import Values
from peftlang.syntax import nodes as n

MAX_USES = 1000


@dataclass(frozen=True)
class Placing:
    """A method in an adapter, before it is lowered.

    Attributes:
        name: What the adapter calls it.
        wanted: The method, its values, and its overridden clauses.
        place: The use, for messages; None for a method that is compiled by itself.
    """

    name: str
    wanted: Wanted
    place: Place | None


@dataclass(frozen=True)
class Training:
    """A ``train`` clause, and the values that its selector may use."""

    selector: Placed[n.Selector]
    values: Values


@dataclass(frozen=True)
class Tying:
    """A ``sharing`` clause of an adapter, and its placings: from ``first`` up to ``last``."""

    clause: Placed[n.Tie]
    first: int
    last: int


@dataclass
class Flat:
    """An adapter with the adapters that it uses spliced in; ``full`` past the bound on uses."""

    placings: list[Placing] = field(default_factory=list)
    training: list[Training] = field(default_factory=list)
    tyings: list[Tying] = field(default_factory=list)
    full: bool = False


def flatten(definition: Definition, values: Values, report: Report) -> Flat:
    """What an adapter places and trains, in order.

    Args:
        definition: An adapter.
        values: Its hyper-parameters.
        report: Takes N104, N110, N111, M312, M314 and the faults of arguments.
    """
    flat = Flat()
    _splice(definition, values, (), flat, report)
    return flat


def _splice(
    definition: Definition, values: Values, within: tuple[Definition, ...], flat: Flat,
    report: Report,
) -> None:  # fmt: skip
    assert isinstance(definition.node, n.Adapter)
    unit = definition.unit
    if not definition.node.clauses:
        report.error("M304", f"`{definition.name}` has neither a use nor `train`", definition.place,
                     help="use a method, or `train` parameters of the base")  # fmt: skip
    first = len(flat.placings)
    for clause in definition.node.clauses:
        if flat.full:
            return
        if isinstance(clause, n.Tie):
            continue
        if isinstance(clause, n.Train):
            flat.training.append(Training(Placed(clause.selector, unit.source), values))
            continue
        used = _used(definition, clause, report)
        if used is None:
            continue
        mine = Report()
        given = of_use(used, clause, values, unit.source, mine)
        everything = with_defaults(used, given, mine)
        report.extend(mine.diagnostics)
        if mine.failed:
            if clause.at is not None:
                Selectors(values, report).lower(clause.at, unit.source)
            continue
        if isinstance(used.node, n.Adapter):
            outer, place = (*within, definition), unit.place(clause.method)
            _nested(used, clause, everything, outer, flat, place, report)
        else:
            flat.placings.append(_placing(definition, used, clause, everything, values))
        if len(flat.placings) > MAX_USES:
            report.error("M312", f"more than {MAX_USES} uses in one adapter", definition.place)
            flat.placings.clear()
            flat.full = True
            return
    flat.tyings += [
        Tying(Placed(clause, unit.source), first, len(flat.placings))
        for clause in definition.node.clauses
        if isinstance(clause, n.Tie)
    ]


def _used(definition: Definition, use: n.Use, report: Report) -> Definition | None:
    unit, name = definition.unit, use.method.text
    found = unit.names.get(name)
    if found is None and not _imports(unit.tree, name):
        from peftlang.lower.units import library_names

        advice = did_you_mean(name, unit.names)
        if advice is None and name in library_names():
            advice = f"import it: `from {name} import {name}`"
        report.error("N104", f"there is no method `{name}`", unit.place(use.method), help=advice)
    return found


def _imports(tree: n.File, name: str) -> bool:
    """Whether an import was meant to bring a name; what is wrong with it has been said."""
    names = (i for item in tree.items if isinstance(item, n.Import) for i in item.names)
    return any((entry.alias or entry.name).text == name for entry in names)


def _nested(
    used: Definition, use: n.Use, values: Values, within: tuple[Definition, ...], flat: Flat,
    place: Place, report: Report,
) -> None:  # fmt: skip
    if any(used.node is outer.node for outer in within):
        report.error("M312", f"the adapter `{used.name}` is used within itself", place)
    elif len(within) > 32:
        report.error("M312", "adapters are nested more than 32 deep", place)
    elif use.at is not None or use.overrides:
        report.error(
            "M314", f"`{used.name}` is an adapter of its own uses, so `at` and `with` could mean "
            "any of them", place, help="give `at` and `with` where it uses its methods",
        )  # fmt: skip
    else:
        _splice(used, values, within, flat, report)


def _placing(
    adapter: Definition, method: Definition, use: n.Use, values: Values, outer: Values
) -> Placing:
    source = adapter.unit.source
    kinds = {p.name.text: p.type.text for p in adapter.node.parameters}
    wanted = Wanted(
        method, values, tuple(Placed(clause, source) for clause in use.overrides),
        None if use.at is None else Placed(use.at, source), outer, kinds,
    )  # fmt: skip
    return Placing(use.method.text, wanted, adapter.unit.place(use.method))


def lower_training(training: Sequence[Training], report: Report) -> Iterator[Selector]:
    """The selectors after ``train``."""
    for entry in training:
        lower = Selectors(entry.values, report, train=True)
        selector = lower.lower(entry.selector.node, entry.selector.source)
        if selector is not None:
            yield selector


def check_placing(placing: Placing, report: Report) -> Method | None:
    """Lower one use and check it as far as its values are known; None after an error."""
    wanted = placing.wanted
    if placing.place is None:
        method = lower_method(wanted, report)
    else:
        changed = wanted.at is not None or wanted.overrides
        with report.during(placing.place if changed else None, "as it is used here"):
            method = lower_method(wanted, report)
    if method is None:
        return None
    if method.position is None and placing.place is not None:
        report.error(
            "M309", f"`{placing.name}` has no position of its own", placing.place,
            help=f"say where: `{placing.name}(…) at attn.q`",
        )  # fmt: skip
        return None
    known = {name: value for name, value in wanted.values.items() if value is not None}
    place = placing.place or wanted.definition.place
    if not check_sizes(method, known, place, report):
        return None
    return method if check_numbers(fixed(method, known), known, place, report) else None


def lower_uses(placings: Sequence[Placing], report: Report) -> list[Use]:
    """Every use that is sound; the others have had their diagnostics."""
    uses: list[Use] = []
    labels: dict[str, int] = {}
    for placing in placings:
        method = check_placing(placing, report)
        if method is None:
            continue
        if method.position is None:
            report.error(
                "M309", f"`{placing.name}` has no position of its own",
                placing.place or placing.wanted.definition.place,
                help="say where: `--at attn.q`, or `at=\"attn.q\"`",
            )  # fmt: skip
            continue
        args = {name: value for name, value in placing.wanted.values.items() if value is not None}
        # Imports may bring two methods of one name, which then have different ones here.
        named = fixed(method, args).model_copy(update={"name": placing.name})
        uses.append(
            Use(method=named, args=args, selector=method.position,
                label=_label(placing.name, labels))
        )  # fmt: skip
    return uses


def labels_of(names: Iterable[str]) -> list[str]:
    """The labels of uses, in order, by what each is called."""
    taken: dict[str, int] = {}
    return [_label(name, taken) for name in names]


def _label(name: str, labels: dict[str, int]) -> str:
    """The name, numbered from its second use on, and different from every other label."""
    label = name
    while label in labels:
        labels[name] += 1
        label = f"{name}_{labels[name]}"
    labels[label] = 1
    return label


def arguments_of(values: Mapping[str, Scalar | None]) -> dict[str, Scalar]:
    """Values that are known."""
    return {name: value for name, value in values.items() if value is not None}

"""From a checked spec to the adapter that is compiled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from peftlang.ir.expr import Scalar
from peftlang.ir.method import Adapter, Method
from peftlang.lower import fragments
from peftlang.lower.arguments import of_caller, with_defaults
from peftlang.lower.clauses import Placed
from peftlang.lower.inline import self_contained, unique_names
from peftlang.lower.methods import Wanted, lower_method
from peftlang.lower.report import Report
from peftlang.lower.spec import Spec
from peftlang.lower.ties import lower_ties, tied
from peftlang.lower.units import Definition
from peftlang.lower.uses import Flat, Placing, arguments_of, flatten, lower_training, lower_uses
from peftlang.syntax import nodes as n


def build(
    spec: Spec, name: str | None = None, args: Mapping[str, Scalar] | None = None,
    at: str | None = None, overrides: Sequence[str] = (),
) -> Adapter:  # fmt: skip
    """The adapter that is compiled: every argument fixed, every use checked again.

    Args:
        spec: A checked spec.
        name: Which method or adapter; see `Spec.main`.
        args: Hyper-parameters: values, or text as on a command line (``"16"``).
        at: A selector in place of the position.
        overrides: Clauses in place of others: ``insertion sequential``,
            ``composition h = h + 2 * delta``; also ``insertion=sequential``.

    Raises:
        SpecError: N104, M310 as `Spec.main`; N110, N111, T204, T205, T212 for arguments; M309,
            no position; M314, ``at`` or ``overrides`` with several uses; whatever the overridden
            clauses get wrong.
    """
    entry = spec.main(name)
    definition = spec.unit.names[name or entry.name]
    report = Report()
    values = with_defaults(definition, of_caller(definition, args or {}, report), report)
    flat = _flat(definition, values, report)
    flat = _overridden(flat, definition, at, overrides, report)
    ties = tied(flat, report)
    report.check()
    names = unique_names(flat, definition)
    flat.placings = [
        replace(placing, name=names[id(placing.wanted.definition.node)])
        for placing in flat.placings
    ]
    uses = lower_uses(flat.placings, report)
    train = tuple(lower_training(flat.training, report))
    report.check()
    labels = [use.label for use in uses]
    made = tuple(lower_ties(ties, [use.method for use in uses], labels, report))
    report.check()
    return Adapter(
        name=definition.name,
        doc=definition.doc,
        args=arguments_of(values),
        uses=tuple(uses),
        train=train,
        ties=made,
        source=self_contained(flat, definition, values, names, made),
    )


def open_method(spec: Spec, name: str | None = None) -> Method:
    """The typed method of a spec, its hyper-parameters open, as a pattern of what it computes.

    Args:
        spec: A checked spec.
        name: Which method; see `Spec.main`.

    Raises:
        SpecError: N104, M310 as `Spec.main`; what the method itself gets wrong.
    """
    definition = spec.unit.names[name or spec.main(name).name]
    report = Report()
    method = lower_method(Wanted(definition, with_defaults(definition, {}, report)), report)
    report.check()
    assert method is not None
    return method


def _flat(definition: Definition, values: Mapping[str, Scalar | None], report: Report) -> Flat:
    if isinstance(definition.node, n.Adapter):
        return flatten(definition, values, report)
    return Flat([Placing(definition.name, Wanted(definition, values), None)])


def _overridden(
    flat: Flat, definition: Definition, at: str | None, overrides: Sequence[str], report: Report
) -> Flat:
    if at is None and not overrides:
        return flat
    selector = fragments.selector(at, report) if at is not None else None
    given: list[Placed[n.Clause]] = []
    for text in overrides:
        given.extend(fragments.clauses(text, report))
    if len(flat.placings) != 1:
        uses = ", ".join(f"`{placing.name}`" for placing in flat.placings) or "none"
        report.error(
            "M314", f"`{definition.name}` has several uses ({uses}), so it is not clear which one "
            "the position or clause is for" if flat.placings else
            f"`{definition.name}` uses no method whose position or clause could change",
            definition.place, help="change it in the adapter itself",
        )  # fmt: skip
        return flat
    placing = flat.placings[0]
    kinds = {type(clause.node) for clause in given}
    kept = [clause for clause in placing.wanted.overrides if type(clause.node) not in kinds]
    wanted = replace(placing.wanted, overrides=(*kept, *given), at=selector or placing.wanted.at)
    return Flat([replace(placing, wanted=wanted)], flat.training)

"""From a checked spec to the adapter that is compiled."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from peftlang.diagnostics import Source, Span
from peftlang.ir.expr import Scalar
from peftlang.ir.method import Adapter, Method, Use, fixed
from peftlang.lower.arguments import known, of_caller, with_defaults
from peftlang.lower.check import lower_ties
from peftlang.lower.flatten import FlatAdapter, FlatUse, flatten, labels_of
from peftlang.lower.load import Definition
from peftlang.lower.methods import lower_method, lower_use
from peftlang.lower.print import self_contained, unique_names
from peftlang.lower.report import Place, Placed, Report
from peftlang.lower.selectors import lower_selector
from peftlang.lower.spec import Spec
from peftlang.lower.walk import moved
from peftlang.syntax import nodes as n
from peftlang.syntax import parse

_WORDS = ("function", "insertion", "composition", "sharing", "penalty", "rate")
_ASSIGNED = re.compile(rf"\s*({'|'.join(_WORDS)})\s*=\s*(?=\S)")


def build(
    spec: Spec,
    name: str | None = None,
    args: Mapping[str, Scalar] | None = None,
    at: str | None = None,
    overrides: Sequence[str] = (),
) -> Adapter:
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
    definition, report = _definition(spec, name), Report()
    values = with_defaults(definition, of_caller(definition, args or {}, report), report)
    flat = flatten(definition, values, report)
    if at is not None or overrides:
        _override(flat, definition, at, overrides, report)
    report.check()
    names = unique_names(flat, definition)
    uses = [
        made
        for use in flat.uses
        if (made := _use(replace(use, name=names[id(use.method.node)]), report)) is not None
    ]
    train = report.each(
        (training.selector for training in flat.training),
        lambda selector: lower_selector(selector.node, values, train=True),
    )
    report.check()
    labels = labels_of(use.method.name for use in uses)
    uses = [
        use.model_copy(update={"label": label}) for use, label in zip(uses, labels, strict=True)
    ]
    ties = lower_ties(flat.ties, [use.method for use in uses], labels, report)
    report.check()
    return Adapter(
        name=definition.name,
        doc=definition.doc,
        args=known(values),
        uses=tuple(uses),
        train=tuple(train),
        ties=tuple(ties),
        source=self_contained(flat, definition, values, names, ties),
    )


def open_method(spec: Spec, name: str | None = None) -> Method:
    """The typed method of a spec, its hyper-parameters open, as a pattern of what it computes.

    Args:
        spec: A checked spec.
        name: Which method; see `Spec.main`.

    Raises:
        SpecError: N104, M310 as `Spec.main`; what the method itself gets wrong.
    """
    definition, report = _definition(spec, name), Report()
    values = with_defaults(definition, {}, report)
    method = lower_method(FlatUse(definition.name, definition, values), report)
    report.check()
    assert method is not None
    return method


def _definition(spec: Spec, name: str | None) -> Definition:
    entry = spec.main(name)
    return spec.unit.names[name or entry.name]


def _use(use: FlatUse, report: Report) -> Use | None:
    """A use, its arguments fixed; None after a diagnostic."""
    method = lower_use(use, report)
    if method is None:
        return None
    if method.position is None:
        message = f"`{use.name}` has no position of its own"
        advice = 'say where: `--at attn.q`, or `at="attn.q"`'
        report.error("M309", message, use.place or use.method.place, help=advice)
        return None
    args = known(use.values)
    # Imports may bring two methods of one name, which then have different ones here.
    named = fixed(method, args).model_copy(update={"name": use.name})
    return Use(method=named, args=args, selector=method.position, label=use.name)


def _override(
    flat: FlatAdapter,
    definition: Definition,
    at: str | None,
    overrides: Sequence[str],
    report: Report,
) -> None:
    """Put a selector and clauses that the caller gives in place of those of the only use."""
    selector = None if at is None else _selector(at, report)
    given = [clause for text in overrides for clause in _clauses(text, report)]
    if len(flat.uses) != 1:
        uses = ", ".join(f"`{use.name}`" for use in flat.uses)
        message = f"`{definition.name}` uses no method whose position or clause could change"
        if uses:
            message = (
                f"`{definition.name}` has several uses ({uses}), so it is not clear which one the "
                "position or clause is for"
            )
        advice = "change it in the adapter itself"
        report.error("M314", message, definition.place, help=advice)
        return
    (use,), kinds = flat.uses, {type(clause.node) for clause in given}
    kept = (clause for clause in use.overrides if type(clause.node) not in kinds)
    flat.uses = [replace(use, overrides=(*kept, *given), at=selector or use.at)]


def _selector(text: str, report: Report) -> Placed[n.Selector] | None:
    """Read a selector, such as ``attn.q in layers[-4..]``; reports what is wrong with it."""
    source = Source("<at>", text)
    use = _use_with("at", source, report)
    if use is not None and use.at is not None and not use.overrides:
        return Placed(use.at, source)
    if not report.failed:
        report.error("P012", "a selector is wanted here", Place(source, Span(0, len(text))))
    return None


def _clauses(text: str, report: Report) -> list[Placed[n.Clause]]:
    """Read clauses, such as ``insertion sequential``, also written ``insertion=sequential``."""
    found = _ASSIGNED.match(text)
    source = Source("<with>", f"{found[1]} {text[found.end() :]}" if found else text)
    use = _use_with("with", source, report)
    if use is not None and use.overrides and use.at is None:
        return [Placed(clause, source) for clause in use.overrides]
    if not report.failed:
        place, advice = Place(source, Span(0, len(source.text))), f"one of {', '.join(_WORDS)}"
        report.error("P012", "a clause is wanted here", place, help=advice)
    return []


def _use_with(word: str, source: Source, report: Report) -> n.Use | None:
    """A use in which a text comes after a word; None when the text is more than a part of it.

    The text is parsed in a frame that makes a file of it; places are those in the text alone.
    """
    frame = f"adapter a {{\n    m() {word}\n"
    tree, diagnostics = parse(Source(source.name, f"{frame}{source.text}\n}}\n"))

    def inside(span: Span) -> Span:
        ends = (offset - len(frame) for offset in (span.start, span.end))
        return Span(*(min(max(end, 0), len(source.text)) for end in ends))

    for diagnostic in diagnostics:
        labels = tuple(replace(label, span=inside(label.span)) for label in diagnostic.labels)
        span = inside(diagnostic.span or Span(0, 0))
        report.add(replace(diagnostic, source=source, span=span, labels=labels))
    only = tree.items[0] if len(tree.items) == 1 else None
    uses = only.clauses if isinstance(only, n.Adapter) else ()
    return moved(uses[0], inside) if len(uses) == 1 and isinstance(uses[0], n.Use) else None

"""A method against the sites that it is placed on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from peftlang.ir.expr import Expr, Ref, postorder
from peftlang.ir.method import Method
from peftlang.ir.selector import Selector
from peftlang.ir.types import Type
from peftlang.lower.clauses import Clauses, Placed, gather
from peftlang.lower.names import SITE_VALUES, Names, declare
from peftlang.lower.onesite import OneSite
from peftlang.lower.report import Report, key
from peftlang.lower.scopes import Site, sites_for, sites_of
from peftlang.lower.selectors import Selectors
from peftlang.lower.tree import read
from peftlang.lower.units import Definition
from peftlang.lower.unread import warn_of_unread
from peftlang.lower.values import Values
from peftlang.syntax import nodes as n


@dataclass(frozen=True)
class Wanted:
    """A method as one use wants it.

    Attributes:
        definition: The method.
        values: Values of its hyper-parameters; None where not known yet.
        overrides: Clauses after ``with``.
        at: The selector after ``at``.
        outer: Hyper-parameters of the adapter and their values, for ``with`` clauses.
        outer_kinds: Their kinds.
    """

    definition: Definition
    values: Values = field(default_factory=dict)
    overrides: Sequence[Placed[n.Clause]] = ()
    at: Placed[n.Selector] | None = None
    outer: Values = field(default_factory=dict)
    outer_kinds: Mapping[str, str] = field(default_factory=dict)


def lower_method(wanted: Wanted, report: Report) -> Method | None:
    """The typed method, checked against every kind of site that its position names.

    Returns:
        The method, or None after at least one error.
    """
    mine = Report()
    clauses = gather(wanted.definition, wanted.overrides, wanted.at, mine)
    names = declare(wanted.definition, clauses, mine)
    names.outer = wanted.outer_kinds
    names.position = clauses.position.place if clauses.position else None
    method = _lowered(wanted, clauses, names, mine)
    if not mine.failed and method is not None:
        warn_of_unread(wanted.definition, clauses, names, method, mine)
    report.extend(mine.diagnostics)
    return None if mine.failed else method


def _lowered(wanted: Wanted, clauses: Clauses, names: Names, report: Report) -> Method | None:
    insertion = _insertion(clauses, report)
    selector = _position(wanted, clauses, report)
    if not (clauses.function or clauses.compositions or clauses.penalties):
        report.error(
            "M304", f"`{wanted.definition.name}` has no function, composition or penalty",
            wanted.definition.place, help="say what it changes: `composition h = …`",
        )  # fmt: skip
        return None
    sequential = insertion == "sequential"
    sites = sites_of(selector, sequential=sequential) if selector else []
    guessed = not sites
    if guessed:
        targets = {c.node.target.text for c in clauses.compositions} or {"h"}
        sites = sites_for(_site_names(clauses, names), targets & SITE_VALUES,
                          sequential=sequential)  # fmt: skip
    attempts: list[tuple[Site, Method | None, Report]] = []
    for site in sites:
        own = Report()
        found = OneSite(wanted, clauses, names, site, insertion, own).lower(selector)
        attempts.append((site, found, own))
        if guessed and found is not None:
            attempts = [attempts[-1]]
            break
    return _merged(attempts[:1] if guessed else attempts, names, report)


def _insertion(clauses: Clauses, report: Report) -> str:
    if clauses.insertion is None:
        return "parallel"
    form, source = clauses.insertion.node.form, clauses.insertion.source
    if form.text not in ("parallel", "sequential"):
        place = Placed(form, source).place
        report.error("M305", f"`{form.text}` is not a form of insertion", place,
                     help="it is `parallel` or `sequential`")  # fmt: skip
        return "parallel"
    return form.text


def _position(wanted: Wanted, clauses: Clauses, report: Report) -> Selector | None:
    if clauses.position is None:
        return None
    mine = wanted.definition.holds(clauses.position.source, clauses.position.node.span)
    values = wanted.values if mine else {**wanted.outer}
    return Selectors(values, report).lower(clauses.position.node, clauses.position.source)


def _site_names(clauses: Clauses, names: Names) -> set[str]:
    """Names that the method reads from its site."""
    found: set[str] = set()
    for placed in clauses.expressions():
        found |= {name for name, node in read(placed.node) if isinstance(node, n.Name)}
    return (found & SITE_VALUES) - set(names.declared)


def _merged(
    attempts: Sequence[tuple[Site, Method | None, Report]], names: Names, report: Report
) -> Method | None:
    """Diagnostics that every position has are said once, others with their position."""
    keys = [{key(diagnostic) for diagnostic in own.diagnostics} for _, _, own in attempts]
    everywhere = set.intersection(*keys)
    for site, _, own in attempts:
        for diagnostic in own.diagnostics:
            if key(diagnostic) not in everywhere and site.position not in diagnostic.message:
                message = f"{diagnostic.message} (at {site.position})"
                diagnostic = replace(diagnostic, message=message)
            report.add(diagnostic)
    methods = [(site, found) for site, found, _ in attempts if found is not None]
    if len(methods) != len(attempts):
        return None
    _check_alike(methods, names, report)
    return methods[0][1]


def _check_alike(methods: Sequence[tuple[Site, Method]], names: Names, report: Report) -> None:
    """One method has one type for each value of the site that it reads (S421)."""
    site, first = methods[0]
    read_here = _site_types(first, names)
    for other, method in methods[1:]:
        for name, type_ in _site_types(method, names).items():
            have = read_here.get(name, type_)
            if have != type_:
                report.error(
                    "S421", f"`{name}` is {have} at {site.position} and {type_} at "
                    f"{other.position}", names.position,
                    help="place the method in two uses, one for each",
                )  # fmt: skip
                return


def _site_types(method: Method, names: Names) -> dict[str, Type]:
    roots: list[Expr] = [c.value for c in method.compositions] + list(method.penalties)
    roots += [t.init.expression for t in method.tensors if t.init.expression is not None]
    return {
        node.name: node.type
        for node in postorder(*roots)
        if isinstance(node, Ref) and node.name not in names.declared
    }

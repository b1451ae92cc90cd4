"""A method against every kind of site that it is placed on: every clause typed there."""

from collections.abc import Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Literal, cast

from peftlang.diagnostics import Label
from peftlang.ir.expr import Expr, Ref, postorder
from peftlang.ir.method import Method
from peftlang.ir.selector import Selector
from peftlang.ir.types import Type
from peftlang.lower.arguments import hyper_parameters, known
from peftlang.lower.check import check_arguments, check_hidden, warn_of_dead_start, warn_of_unread
from peftlang.lower.compositions import lower_compositions
from peftlang.lower.contracts import lower_contracts
from peftlang.lower.declare import Declarations, declare
from peftlang.lower.expressions import lower_expression
from peftlang.lower.flatten import FlatUse
from peftlang.lower.inputs import (
    lower_carry,
    lower_carry_start,
    lower_input,
    lower_tap,
    tapped_dims,
)
from peftlang.lower.report import Fault, Placed, Report, key
from peftlang.lower.scope import SITE_VALUES, Scope, SiteKind, kinds_of, kinds_with
from peftlang.lower.selectors import lower_selector
from peftlang.lower.tensors import lower_tensors
from peftlang.lower.walk import names_read, walk
from peftlang.syntax import nodes as n

Insertion = Literal["parallel", "sequential"]

MAX_CIRCLES = 16
"""Most circles of lets that are reported at once."""


def lower_use(use: FlatUse, report: Report) -> Method | None:
    """A method as it is used, typed, and checked as far as its arguments are known.

    Returns:
        The method, its arguments not fixed; None after at least one error.
    """
    mine = Report()
    method = lower_method(use, mine)
    for diagnostic in mine.diagnostics:
        changed = use.place if use.at is not None or use.overrides else None
        if changed is not None and changed.source is not diagnostic.source:
            label = Label(changed.span, "as it is used here", changed.source)
            diagnostic = replace(diagnostic, labels=(*diagnostic.labels, label))
        report.add(diagnostic)
    if method is None:
        return None
    if method.position is None and use.place is not None:
        advice = f"say where: `{use.name}(…) at attn.q`"
        message = f"`{use.name}` has no position of its own"
        report.error("M309", message, use.place, help=advice)
        return None
    place = use.place or use.method.place
    return method if check_arguments(method, known(use.values), place, report) else None


def lower_method(use: FlatUse, report: Report) -> Method | None:
    """The typed method, checked against every kind of site that its position names.

    Returns:
        The method, or None after at least one error.
    """
    mine = Report()
    declared = declare(use, mine)
    method = _lowered(declared, mine)
    if not mine.failed and method is not None:
        warn_of_unread(declared, method, mine)
        warn_of_dead_start(declared, method, mine)
    report.extend(mine.diagnostics)
    return None if mine.failed else method


def _lowered(declared: Declarations, report: Report) -> Method | None:
    clauses, definition = declared.clauses, declared.use.method
    insertion = _insertion(clauses.only(n.Insertion), report)
    selector = _position(declared, report)
    targets = {clause.node.target.text for clause in clauses.of(n.Composition)}
    if not (targets or clauses.only(n.Function) or clauses.of(n.Penalty)):
        message = f"`{definition.name}` has no function, composition or penalty"
        advice = "say what it changes: `composition h = …`"
        report.error("M304", message, definition.place, help=advice)
        return None
    sequential = insertion == "sequential"
    kinds = kinds_of(selector, sequential=sequential) if selector else []
    guessed = not kinds
    if guessed:
        read = SITE_VALUES.intersection(names_read(*clauses.nodes)) - declared.names.keys()
        kinds = kinds_with(read, (targets or {"h"}) & SITE_VALUES, sequential=sequential)
    attempts: list[_Attempt] = []
    for kind in kinds:
        attempt = _at_kind(declared, kind, insertion, selector)
        if guessed and attempt.method is not None:
            attempts = [attempt]
            break
        attempts.append(attempt)
    return _merged(attempts[:1] if guessed else attempts, declared, report)


def _insertion(clause: Placed[n.Insertion] | None, report: Report) -> Insertion:
    if clause is None:
        return "parallel"
    form = clause.node.form
    if form.text not in ("parallel", "sequential"):
        message, place = f"`{form.text}` is not a form of insertion", clause.beside(form).place
        report.error("M305", message, place, help="it is `parallel` or `sequential`")
        return "parallel"
    return cast("Insertion", form.text)


def _position(declared: Declarations, report: Report) -> Selector | None:
    position, use = declared.clauses.position, declared.use
    if position is None:
        return None
    own = use.method.holds(position.source, position.node.span)
    with report.faults(position.source):
        return lower_selector(position.node, use.values if own else use.outer)
    return None


@dataclass(frozen=True)
class _Attempt:
    """What came of a method at one kind of site."""

    kind: SiteKind
    method: Method | None
    report: Report


def _at_kind(
    declared: Declarations, kind: SiteKind, insertion: Insertion, selector: Selector | None
) -> _Attempt:
    report, clauses, use = Report(), declared.clauses, declared.use
    scope = Scope(declared, kind, insertion, tapped_dims(declared))
    check_hidden(declared, kind, report)
    inputs = report.each(clauses.of(n.Input), lambda clause: lower_input(clause, scope))
    taps = report.each(clauses.of(n.Tap), lambda clause: lower_tap(clause, scope))
    states = report.each(clauses.of(n.Carry), lambda clause: lower_carry(clause, scope))
    tensors = lower_tensors(clauses, scope, report)
    _lower_lets(declared, scope, report)
    carried = dict(states)
    starting = [clause for clause in clauses.of(n.Carry) if clause.node.name.text in carried]
    carries = report.each(starting, lambda clause: lower_carry_start(clause, carried, scope))
    compositions = lower_compositions(clauses, carried, scope, report)
    _check_carried(carried, declared, report)
    penalties = report.each(clauses.of(n.Penalty), lambda clause: _penalty(clause, scope))
    contracts = report.each(clauses.of(n.Ensure), lambda clause: lower_contracts(clause, scope))
    if report.failed:
        return _Attempt(kind, None, report)
    function = clauses.only(n.Function)
    name = function.node.name.text if function else ""
    lets = {key: value for key, value in scope.lets.items() if value is not None}
    value = lets.pop(name, None)
    method = Method(
        name=use.method.name,
        doc=use.method.doc,
        hypers=hyper_parameters(use.method, use.values),
        tensors=tuple(tensors),
        inputs=tuple(inputs),
        taps=tuple(taps),
        carries=tuple(carries),
        lets=tuple(lets.items()),
        function=(name, value) if value is not None else None,
        position=selector,
        insertion=insertion,
        compositions=tuple(compositions),
        penalties=tuple(penalties),
        contracts=tuple(contract for several in contracts for contract in several),
        text=clauses.texts(),
    )
    return _Attempt(kind, method, report)


def _lower_lets(declared: Declarations, scope: Scope, report: Report) -> None:
    """Lower lets and the function, each after those that it reads."""
    clauses, written = declared.clauses, dict[str, Placed[n.Expr]]()
    for let in clauses.of(n.Let):
        written.setdefault(let.node.name.text, let.beside(let.node.value))
    for function in clauses.of(n.Function):
        written.setdefault(function.node.name.text, function.beside(function.node.value))
    reads = {name: _names_among(written, value.node) for name, value in written.items()}
    scope.lets.update(dict.fromkeys(written))
    for circle in _circles(reads):
        shown = [f"`{name}`" for name in (*circle, circle[0])]
        if len(circle) > 8:
            shown[6:-2] = ["…"]
        message = f"these need each other in a circle: {' -> '.join(shown)}"
        report.error("N109", message, declared.names[circle[0]].place)
    lets = {clause.node.name.text for clause in clauses.of(n.Let)}
    for name in _order(reads):
        value, source = written[name].node, written[name].source
        with report.faults(source):
            scope.lets[name] = lower_expression(value, source, scope, literal=name in lets)


def _names_among(names: Container[str], expr: n.Expr) -> list[str]:
    """Those of the names that an expression reads as values, each once."""
    found = (node.text for node in walk(expr) if isinstance(node, n.Name))
    return list(dict.fromkeys(name for name in found if name in names))


def _order(reads: dict[str, list[str]]) -> list[str]:
    """Names such that each comes after all that it reads; without those that need a circle."""
    sorter, order = TopologicalSorter(reads), list[str]()
    with suppress(CycleError):  # What is on no circle still comes in order.
        sorter.prepare()
    while ready := sorter.get_ready():
        order += ready
        sorter.done(*ready)
    return order


def _circles(reads: dict[str, list[str]]) -> list[list[str]]:
    """Circles among names, each from its first name on, in which each reads the next."""
    found: list[list[str]] = []
    left, number = dict(reads), {name: index for index, name in enumerate(reads)}
    while len(found) < MAX_CIRCLES:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = error.args[1][:0:-1]
            start = circle.index(min(circle, key=number.__getitem__))
            found.append(circle[start:] + circle[:start])
            gone = set(circle)
            left = {
                name: [other for other in others if other not in gone]
                for name, others in left.items()
                if name not in gone
            }
        else:
            break
    return found


def _check_carried(carried: dict[str, Type], declared: Declarations, report: Report) -> None:
    """A carried state is changed somewhere (M318)."""
    targets = {clause.node.target.text for clause in declared.clauses.of(n.Composition)}
    for name in carried.keys() - targets:
        message = f"`{name}` is carried, and no composition changes it"
        advice = f"write `composition {name} = …`"
        report.error("M318", message, declared.names[name].place, help=advice)


def _penalty(clause: Placed[n.Penalty], scope: Scope) -> Expr:
    value = lower_expression(clause.node.value, clause.source, scope)
    if value.type.dims:
        message = f"a penalty is one number, and this is {value.type}"
        raise Fault("T208", message, clause.node.value, help="`sum(…)` or `mean(…)` of it")
    return value


def _merged(attempts: Sequence[_Attempt], declared: Declarations, report: Report) -> Method | None:
    """The method as it is at the first kind.

    What is wrong at every kind is said once, other things with their position.
    """
    keys = [{key(diagnostic) for diagnostic in a.report.diagnostics} for a in attempts]
    everywhere = set.intersection(*keys)
    for attempt in attempts:
        position = attempt.kind.position
        for diagnostic in attempt.report.diagnostics:
            if key(diagnostic) not in everywhere and position not in diagnostic.message:
                message = f"{diagnostic.message} (at {position})"
                diagnostic = replace(diagnostic, message=message)
            report.add(diagnostic)
    methods = [(a.kind, a.method) for a in attempts if a.method is not None]
    if len(methods) != len(attempts):
        return None
    _check_alike(methods, declared, report)
    return methods[0][1]


def _check_alike(
    methods: Sequence[tuple[SiteKind, Method]], declared: Declarations, report: Report
) -> None:
    """One method has one type for each value of the site that it reads (S421)."""
    kind, first = methods[0]
    types, position = _site_types(first, declared), declared.clauses.position
    place = position.place if position else None
    for other, method in methods[1:]:
        for name, type_ in _site_types(method, declared).items():
            have = types.get(name, type_)
            if have != type_:
                message = f"`{name}` is {have} at {kind.position} and {type_} at {other.position}"
                advice = "place the method in two uses, one for each"
                report.error("S421", message, place, help=advice)
                return


def _site_types(method: Method, declared: Declarations) -> dict[str, Type]:
    roots: list[Expr] = [c.value for c in method.compositions] + list(method.penalties)
    roots += [t.init.expression for t in method.tensors if t.init.expression is not None]
    return {
        node.name: node.type
        for node in postorder(*roots)
        if isinstance(node, Ref) and node.name not in declared.names
    }

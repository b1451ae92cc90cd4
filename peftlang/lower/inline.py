"""One self-contained text that says what an adapter is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from peftlang.diagnostics import Source, Span
from peftlang.ir.expr import Scalar
from peftlang.ir.method import Tie
from peftlang.lower.clauses import Placed
from peftlang.lower.tree import walk
from peftlang.lower.units import Definition
from peftlang.lower.uses import Flat, Placing, arguments_of
from peftlang.lower.values import Values
from peftlang.syntax import format_text
from peftlang.syntax import nodes as n


def literal(value: Scalar, kind: str) -> str:
    """A value as it is written in a spec."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if kind == "str" else value
    return repr(value)


@dataclass(frozen=True)
class Edit:
    """Text in place of a span."""

    span: Span
    text: str


def edited(source: Source, span: Span, edits: Iterable[Edit]) -> str:
    """The text under a span with edits made; they do not overlap."""
    pieces: list[str] = []
    at = span.start
    for edit in sorted(edits, key=lambda e: (e.span.start, e.span.end)):
        pieces += [source.text[at : edit.span.start], edit.text]
        at = edit.span.end
    return "".join([*pieces, source.text[at : span.end]])


def unique_names(flat: Flat, definition: Definition) -> dict[int, str]:
    """A name for every method in use, by the identity of its node; imports may bring two alike."""
    found: dict[int, str] = {}
    alone = isinstance(definition.node, n.Method)
    taken = set() if alone else {definition.name}
    for method in _methods(flat):
        name, count = method.name, 1
        while name in taken:
            count += 1
            name = f"{method.name}_{count}"
        taken.add(name)
        found[id(method.node)] = name
    return found


def _methods(flat: Flat) -> list[Definition]:
    """Methods that are used, then those that contracts speak of."""
    found: dict[int, Definition] = {}
    pending = [placing.wanted.definition for placing in flat.placings]
    for placing in flat.placings:
        pending += [other for _, other in equivalents_of(placing.wanted.definition)]
        for clause in placing.wanted.overrides:
            pending += [other for _, other in _equivalents(clause.node, placing.wanted.definition)]
    while pending:
        method = pending.pop(0)
        if id(method.node) not in found:
            found[id(method.node)] = method
            pending += [other for _, other in equivalents_of(method)]
    return list(found.values())


def equivalents_of(method: Definition) -> Iterator[tuple[n.Node, Definition]]:
    """Methods that a method's contracts speak of, and where their names stand."""
    if isinstance(method.node, n.Method):
        for clause in method.node.clauses:
            yield from _equivalents(clause, method)


def _equivalents(clause: n.Clause, method: Definition) -> Iterator[tuple[n.Node, Definition]]:
    """Methods that ``ensure equivalent(…)`` names, and where."""
    for expr in clause.properties if isinstance(clause, n.Ensure) else ():
        for node in walk(expr):
            if not isinstance(node, n.Call) or node.function.text != "equivalent":
                continue
            for argument in node.arguments:
                named = not isinstance(argument, n.Argument) or argument.name is not None
                value = None if named or isinstance(argument, n.Over) else argument.value
                name: n.Node | None = value.function if isinstance(value, n.Call) else None
                if isinstance(value, n.Name):
                    name = value
                text = name.text if isinstance(name, n.Ident | n.Name) else ""
                other = method.unit.names.get(text)
                if name is not None and other is not None and isinstance(other.node, n.Method):
                    yield name, other


def self_contained(
    flat: Flat, definition: Definition, values: Values, names: Mapping[int, str],
    ties: Iterable[Tie],
) -> str:  # fmt: skip
    """One text, without imports, that builds the same adapter.

    Args:
        flat: The adapter's uses.
        definition: The adapter, or the method that is compiled by itself.
        values: Its hyper-parameters, which become the defaults.
        names: From `unique_names`.
        ties: Tensors that uses have in common.
    """
    alone = isinstance(definition.node, n.Method)
    blocks = [
        _method(method, names, flat.placings[0] if alone and method.node is definition.node
                else None)
        for method in _methods(flat)
    ]  # fmt: skip
    if not alone:
        blocks.append(_adapter(flat, definition, values, names, ties))
    else:
        # The method that is compiled is told from those that its contracts name.
        blocks = [*blocks[1:], blocks[0]]
    return format_text("\n\n".join(blocks) + "\n")


def _documented(definition: Definition, text: str) -> str:
    doc = definition.node.docstring
    return f"{definition.unit.source.slice(doc.span)}\n{text}" if doc else text


def _method(method: Definition, names: Mapping[int, str], alone: Placing | None) -> str:
    source, node = method.unit.source, method.node
    assert isinstance(node, n.Method)
    edits = [Edit(node.name.span, names[id(node)])]
    edits += [Edit(place.span, names[id(other.node)]) for place, other in equivalents_of(method)]
    if alone is not None:
        edits = _applied(alone, node, names, edits)
    return _documented(method, edited(source, node.span, edits))


def _applied(
    placing: Placing, node: n.Method, names: Mapping[int, str], edits: list[Edit]
) -> list[Edit]:
    """Edits that make overrides and arguments the method's own."""
    wanted = placing.wanted
    instead = _replaced(placing)
    gone = [clause for clause in node.clauses if type(clause) in instead]
    edits = [e for e in edits if not any(_within(e.span, clause.span) for clause in gone)]
    edits += [Edit(clause.span, "") for clause in gone]
    if n.Sharing in instead:
        edits += [Edit(Span(c.init.span.end, c.span.end), "") for c in node.clauses
                  if isinstance(c, n.Param | n.Buffer) and c.shared is not None]  # fmt: skip
    for parameter in node.parameters:
        value = wanted.values.get(parameter.name.text)
        if value is not None:
            end = parameter.type.span.end
            text = f" = {literal(value, parameter.type.text)}"
            edits.append(Edit(Span(end, parameter.span.end), text))
    added = [_clause(clause, placing, names) for clause in wanted.overrides]
    if wanted.at is not None:
        added.insert(0, f"position {_selector(wanted.at, wanted.outer)}")
    if added:
        end = node.span.end - 1
        edits.append(Edit(Span(end, end), "".join(f"\n    {text}" for text in added) + "\n"))
    return edits


def _replaced(placing: Placing) -> set[type[n.Node]]:
    found: set[type[n.Node]] = {type(clause.node) for clause in placing.wanted.overrides}
    return found | {n.Position} if placing.wanted.at is not None else found


def _within(inner: Span, outer: Span) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _clause(clause: Placed[n.Clause], placing: Placing, names: Mapping[int, str]) -> str:
    """A clause after ``with``: other methods by their new names, outer hyper-parameters fixed."""
    wanted = placing.wanted
    own = {p.name.text for p in wanted.definition.node.parameters} | _declared(wanted.definition)
    outer = {name: value for name, value in wanted.outer.items() if name not in own}
    renamed = {place.span: names[id(other.node)]
               for place, other in _equivalents(clause.node, wanted.definition)}  # fmt: skip
    edits = [Edit(span, text) for span, text in renamed.items()]
    for expr in _expressions(clause.node):
        edits += [e for e in _fixed_names(expr, outer) if e.span not in renamed]
    return edited(clause.source, clause.node.span, edits)


def _declared(method: Definition) -> set[str]:
    assert isinstance(method.node, n.Method)
    return {clause.name.text for clause in method.node.clauses
            if isinstance(clause, n.Param | n.Buffer | n.Input | n.Let | n.Function)}  # fmt: skip


def _expressions(clause: n.Clause) -> Iterator[n.Expr]:
    if isinstance(clause, n.Function | n.Composition | n.Penalty | n.Rate):
        yield clause.value
    elif isinstance(clause, n.Sharing):
        yield from (a.size for a in n.axes_of(clause.axis) if isinstance(a, n.Grouped))
    elif isinstance(clause, n.Ensure):
        yield from clause.properties


def _fixed_names(expr: n.Expr, values: Values) -> Iterator[Edit]:
    for node in walk(expr):
        if isinstance(node, n.Call):
            for argument in node.arguments:
                if isinstance(argument, n.Over):
                    yield from _fixed_names(argument.dim, values)
        value = values.get(node.text) if isinstance(node, n.Name) else None
        if value is not None:
            text = literal(value, "")
            yield Edit(node.span, f"({text})" if text.startswith("-") else text)


def _selector(selector: Placed[n.Selector], values: Values) -> str:
    edits: list[Edit] = []
    pending: list[n.Selector] = [selector.node]
    while pending:
        node = pending.pop()
        if isinstance(node, n.Either):
            pending.extend(node.options)
        elif isinstance(node, n.Scoped):
            pending.append(node.selector)
            for scope in node.scopes:
                if isinstance(scope, n.Except):
                    pending.append(scope.selector)
                for expr in _scope_expressions(scope):
                    edits.extend(_fixed_names(expr, values))
    return edited(selector.source, selector.node.span, edits)


def _scope_expressions(scope: n.Scope) -> Iterator[n.Expr]:
    if isinstance(scope, n.Where):
        yield scope.condition
    elif isinstance(scope, n.Layers):
        for entry in scope.ranges:
            ends = {id(end): end for end in (entry.first, entry.last) if end is not None}
            yield from ends.values()


def _adapter(
    flat: Flat, definition: Definition, values: Values, names: Mapping[int, str],
    ties: Iterable[Tie],
) -> str:  # fmt: skip
    hypers = ", ".join(
        f"{p.name.text}: {p.type.text}{_default(values, p)}" for p in definition.node.parameters
    )
    lines = [
        f"adapter {definition.name}({hypers}) {{" if hypers else f"adapter {definition.name} {{"
    ]
    lines += [f"    {_use(placing, names)}" for placing in flat.placings]
    lines += [f"    train {_selector(t.selector, t.values)}" for t in flat.training]
    lines += [f"    sharing {tie.tensor} across {', '.join(tie.uses)}" for tie in ties]
    return _documented(definition, "\n".join([*lines, "}"]))


def _default(values: Values, parameter: n.HyperParameter) -> str:
    value = values.get(parameter.name.text)
    return "" if value is None else f" = {literal(value, parameter.type.text)}"


def _use(placing: Placing, names: Mapping[int, str]) -> str:
    wanted = placing.wanted
    kinds = {p.name.text: p.type.text for p in wanted.definition.node.parameters}
    given = arguments_of(wanted.values)
    args = ", ".join(f"{name} = {literal(value, kinds[name])}" for name, value in given.items())
    text = f"{names[id(wanted.definition.node)]}({args})"
    if wanted.at is not None:
        text += f" at {_selector(wanted.at, wanted.outer)}"
    if wanted.overrides:
        clauses = ", ".join(_clause(c, placing, names) for c in wanted.overrides)
        text += f" with {clauses}"
    return text

"""Printing: one self-contained text that says what an adapter is, its arguments fixed."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from peftlang.diagnostics import Source, Span
from peftlang.ir.expr import Scalar
from peftlang.ir.method import Tie
from peftlang.lower.arguments import known
from peftlang.lower.constants import Values
from peftlang.lower.contracts import equivalents
from peftlang.lower.declare import own_names
from peftlang.lower.flatten import FlatAdapter, FlatUse
from peftlang.lower.load import Definition
from peftlang.lower.report import Placed
from peftlang.lower.walk import walk
from peftlang.syntax import format_text
from peftlang.syntax import nodes as n

Names = Mapping[int, str]
"""What the text calls each method, by the identity of its node."""


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


def unique_names(flat: FlatAdapter, definition: Definition) -> Names:
    """A name for every method in use; imports may bring two that are called alike."""
    found: dict[int, str] = {}
    taken = set() if definition.is_method else {definition.name}
    for method in _methods(flat):
        name, count = method.name, 1
        while name in taken:
            count += 1
            name = f"{method.name}_{count}"
        taken.add(name)
        found[id(method.node)] = name
    return found


def _methods(flat: FlatAdapter) -> list[Definition]:
    """Methods that are used, then those that contracts speak of."""
    found: dict[int, Definition] = {}
    pending = [use.method for use in flat.uses]
    while pending:
        method = pending.pop(0)
        if id(method.node) not in found:
            found[id(method.node)] = method
            pending += [other for _, other in equivalents(method.node.clauses, method)]
    return list(found.values())


def self_contained(
    flat: FlatAdapter, definition: Definition, values: Values, names: Names, ties: Iterable[Tie]
) -> str:
    """One text, without imports, that builds the same adapter.

    Args:
        flat: What the adapter, or the method that is compiled by itself, comes to.
        definition: The adapter or method.
        values: Its hyper-parameters, which become the defaults.
        names: From `unique_names`.
        ties: Tensors that uses have in common.
    """
    methods = _methods(flat)
    if definition.is_method:
        # The method that is compiled comes last, which tells it from those that contracts name.
        blocks = [_method(method, names) for method in methods[1:]]
        blocks.append(_method(definition, names, flat.uses[0]))
    else:
        blocks = [_method(method, names) for method in methods]
        blocks.append(_adapter(flat, definition, values, names, ties))
    return format_text("\n\n".join(blocks) + "\n")


def _documented(definition: Definition, text: str) -> str:
    doc = definition.node.docstring
    return f"{definition.unit.source.slice(doc.span)}\n{text}" if doc else text


def _method(method: Definition, names: Names, alone: FlatUse | None = None) -> str:
    """A method under its new name; ``alone`` makes what a use says of it the method's own."""
    node = method.node
    edits = [Edit(node.name.span, names[id(node)]), *_renamed(node.clauses, method, names)]
    if alone is not None:
        edits = [*_replaced(alone, edits), *_given(alone, names)]
    return _documented(method, edited(method.unit.source, node.span, edits))


def _renamed(clauses: Iterable[n.Node], method: Definition, names: Names) -> Iterator[Edit]:
    """Methods that contracts name, by their new names."""
    for name, other in equivalents(clauses, method):
        yield Edit(name.span, names[id(other.node)])


def _replaced(use: FlatUse, edits: Iterable[Edit]) -> Iterator[Edit]:
    """Take away the clauses that a use replaces, and the edits within them."""
    kinds = {type(clause.node) for clause in use.overrides}
    kinds |= {n.Position} if use.at is not None else set()
    gone = [clause.span for clause in use.method.node.clauses if type(clause) in kinds]
    if n.Sharing in kinds:
        gone += [
            Span(clause.init.span.end, clause.span.end)
            for clause in use.method.node.clauses
            if isinstance(clause, n.Param | n.Buffer) and clause.shared is not None
        ]
    for edit in edits:
        if not any(g.start <= edit.span.start and edit.span.end <= g.end for g in gone):
            yield edit
    yield from (Edit(span, "") for span in gone)


def _given(use: FlatUse, names: Names) -> Iterator[Edit]:
    """Arguments as defaults, and the clauses of a use at the end of the method."""
    for parameter in use.method.node.parameters:
        value = use.values.get(parameter.name.text)
        if value is not None:
            end = parameter.type.span.end
            text = f" = {literal(value, parameter.type.text)}"
            yield Edit(Span(end, parameter.span.end), text)
    added = [] if use.at is None else [f"position {_fixed(use.at, use.outer)}"]
    added += [_override(clause, use) for clause in use.overrides]
    if added:
        end = use.method.node.span.end - 1
        yield Edit(Span(end, end), "".join(f"\n    {text}" for text in added) + "\n")


def _override(clause: Placed[n.Clause], use: FlatUse) -> str:
    """A clause after ``with``, the adapter's hyper-parameters in it fixed."""
    own = own_names(use.method)
    return _fixed(clause, {name: v for name, v in use.outer.items() if name not in own})


def _fixed(placed: Placed[n.Clause] | Placed[n.Selector], values: Values) -> str:
    """The text of a node with the names of hyper-parameters replaced by their values."""
    edits: list[Edit] = []
    for node in walk(placed.node):
        value = values.get(node.text) if isinstance(node, n.Name) else None
        if value is not None:
            text = literal(value, "")
            edits.append(Edit(node.span, f"({text})" if text.startswith("-") else text))
    return edited(placed.source, placed.node.span, edits)


def _adapter(
    flat: FlatAdapter, definition: Definition, values: Values, names: Names, ties: Iterable[Tie]
) -> str:
    hypers = ", ".join(_hyper(p, values) for p in definition.node.parameters)
    lines = [f"adapter {definition.name}{f'({hypers})' if hypers else ''} {{"]
    lines += [f"    {_use(use, names)}" for use in flat.uses]
    lines += [f"    train {_fixed(t.selector, t.values)}" for t in flat.training]
    lines += [f"    sharing {tie.tensor} across {', '.join(tie.uses)}" for tie in ties]
    return _documented(definition, "\n".join([*lines, "}"]))


def _hyper(parameter: n.HyperParameter, values: Values) -> str:
    value, kind = values.get(parameter.name.text), parameter.type.text
    default = "" if value is None else f" = {literal(value, kind)}"
    return f"{parameter.name.text}: {kind}{default}"


def _use(use: FlatUse, names: Names) -> str:
    kinds = use.method.kinds
    args = [f"{name} = {literal(value, kinds[name])}" for name, value in known(use.values).items()]
    text = f"{names[id(use.method.node)]}({', '.join(args)})"
    if use.at is not None:
        text += f" at {_fixed(use.at, use.outer)}"
    if use.overrides:
        text += " with " + ", ".join(_override(clause, use) for clause in use.overrides)
    return text

"""The clauses of a method or an adapter as lines, with their columns aligned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from peftlang.syntax import nodes as n
from peftlang.syntax.format_expressions import (
    ONE_LINE,
    WIDTH,
    argument,
    expression,
    listed,
    selector,
)

INDENT = 4
_COLUMN = len("composition") + 1

Declaration = n.Param | n.Buffer | n.Input | n.Carry
AnyClause = n.Clause | n.Use | n.Train | n.Tie


def word(clause: n.Clause | n.Train) -> str:
    """The keyword of a clause."""
    return type(clause).__name__.lower()


def clause_lines(run: Sequence[AnyClause]) -> list[str]:
    """Neighbouring clauses as texts (of one line or more), each indented.

    Tensors are aligned with the tensors beside them, uses with uses.
    """
    texts: list[str] = []
    start = 0
    while start < len(run):
        kind = _kind(run[start])
        end = start
        while end < len(run) and _kind(run[end]) is kind:
            end += 1
        texts.extend(kind(run[start:end]))
        start = end
    return [" " * INDENT + text for text in texts]


def _kind(clause: AnyClause) -> "Callable[[Sequence[AnyClause]], list[str]]":
    if isinstance(clause, Declaration):
        return _declarations
    return _uses if isinstance(clause, n.Use) else _others


# --- param, buffer, input ---


@dataclass(frozen=True, slots=True)
class _Columns:
    word: int
    name: int
    value: int


def _declarations(run: Sequence[AnyClause]) -> list[str]:
    found = [clause for clause in run if isinstance(clause, Declaration)]
    widest = _Columns(
        max(len(word(clause)) for clause in found),
        max(len(_tensor(clause)) for clause in found),
        max((len(_value(c)) for c in found if _shared(c)), default=0),
    )
    return [_declaration(clause, widest) for clause in found]


def _tensor(clause: Declaration | n.Tap) -> str:
    dims = ", ".join(expression(dim, column=ONE_LINE) for dim in clause.dims)
    return f"{clause.name.text}[{dims}]" if clause.dims else clause.name.text


def _value(clause: Declaration) -> str:
    value = clause.type if isinstance(clause, n.Input) else clause.init
    return expression(value, column=ONE_LINE)


def _shared(clause: Declaration) -> str:
    if isinstance(clause, n.Input | n.Carry) or clause.shared is None:
        return ""
    return f"  shared across {_axis(clause.shared)}"


def _axis(axis: n.Axis) -> str:
    return " and ".join(map(_one_axis, n.axes_of(axis)))


def _one_axis(axis: n.Ident | n.Grouped) -> str:
    if isinstance(axis, n.Ident):
        return axis.text
    return f"{axis.name.text}({expression(axis.size, column=ONE_LINE)})"


def _declaration(clause: Declaration, widest: _Columns) -> str:
    sign = ":" if isinstance(clause, n.Input) else "~"
    head = f"{word(clause):<{widest.word}} "
    shared = _shared(clause)
    value = _value(clause)
    # An `input` among tensors is not pushed out to their column.
    name = _tensor(clause)
    if sign == "~":
        name = f"{name:<{widest.name}}"
    padded = f"{value:<{widest.value}}" if shared else value
    for line in (f"{head}{name} {sign} {padded}{shared}", f"{head}{name} {sign} {value}{shared}"):
        if INDENT + len(line) <= WIDTH:
            return line
    return _long_declaration(clause, f"{word(clause)} ", sign, shared)


def _long_declaration(clause: Declaration, head: str, sign: str, shared: str) -> str:
    tensor = head + _tensor(clause)
    if INDENT + len(tensor) + 4 > WIDTH and clause.dims:
        tensor = listed(f"{head}{clause.name.text}[", clause.dims, _dim, "]", INDENT)
    start = f"{tensor} {sign} "
    column = len(start.rsplit("\n", 1)[-1]) + (0 if "\n" in start else INDENT)
    value = clause.type if isinstance(clause, n.Input) else clause.init
    return start + expression(value, indent=INDENT, column=column, tail=len(shared)) + shared


def _dim(node: n.Expr, indent: int) -> str:
    return expression(node, indent=indent, column=indent, tail=1)


# --- the other clauses ---


def _others(run: Sequence[AnyClause]) -> list[str]:
    return [_other(clause) for clause in run]


def _other(clause: AnyClause) -> str:
    if isinstance(clause, n.Train):
        return "train  " + selector(clause.selector, column=INDENT + 7)
    if isinstance(clause, n.Tie):
        return f"sharing {_names(clause.names)} across {_names(clause.uses)}"
    if isinstance(clause, n.Ensure):
        return "ensure " + _properties(clause)
    assert not isinstance(clause, n.Use | Declaration)
    head = f"{word(clause):<{_COLUMN}}"
    return head + said(clause, INDENT, INDENT + _COLUMN)


def _properties(clause: n.Ensure) -> str:
    column = INDENT + len("ensure ")
    texts = [expression(one, indent=column, column=column, tail=1) for one in clause.properties]
    line = ", ".join(texts)
    if "\n" not in line and column + len(line) <= WIDTH:
        return line
    return (",\n" + " " * column).join(texts)


def said(clause: n.Clause, indent: int, column: int) -> str:  # noqa: PLR0911 -- one for each kind
    """What a clause says after its keyword."""
    match clause:
        case n.Let() | n.Function():
            return _assigned(clause.name, clause.value, indent, column)
        case n.Tap():
            head = f"{_tensor(clause)} = "
            return head + selector(_with_value(clause), column=column + len(head))
        case n.Composition():
            return _assigned(clause.target, clause.value, indent, column)
        case n.Position():
            return selector(clause.selector, column=column)
        case n.Insertion():
            return clause.form.text
        case n.Sharing():
            names = _names(clause.names)
            return f"{names} across {_axis(clause.axis)}" if clause.axis else "none"
        case n.Rate():
            names = _names(clause.names)
            value = expression(clause.value, indent=indent, column=column + len(names) + 3)
            return f"{names} = {value}"
        case n.Penalty():
            return expression(clause.value, indent=indent, column=column)
        case n.Ensure():
            return _properties(clause)
        case _:
            return ""


def _names(names: Sequence[n.Ident]) -> str:
    return ", ".join(name.text for name in names)


def _with_value(clause: n.Tap) -> n.Selector:
    """The selector with the value's name where it is written: before the scopes."""
    scoped = clause.selector
    base = scoped.selector if isinstance(scoped, n.Scoped) else scoped
    parts = (f'"{base.pattern}"',) if isinstance(base, n.Glob) else cast("n.Role", base).parts
    named = n.Role(base.span, (*parts, clause.value.text))
    return replace(scoped, selector=named) if isinstance(scoped, n.Scoped) else named


def _assigned(name: n.Ident, value: n.Expr, indent: int, column: int) -> str:
    head = f"{name.text} = "
    return head + expression(value, indent=indent, column=column + len(head))


# --- uses ---


def _uses(run: Sequence[AnyClause]) -> list[str]:
    uses = [clause for clause in run if isinstance(clause, n.Use)]
    call = max(len(_call(use)) for use in uses)
    at = max((len(_at(use)) for use in uses if use.overrides), default=0)
    return [_use(use, call, at) for use in uses]


def _call(use: n.Use) -> str:
    if not use.arguments:
        return use.method.text
    return f"{use.method.text}({', '.join(argument(one) for one in use.arguments)})"


def _at(use: n.Use) -> str:
    return f"at {selector(use.at, column=ONE_LINE)}" if use.at else ""


def _override(clause: n.Clause, column: int) -> str:
    head = f"{word(clause)} "
    return head + said(clause, column, column + len(head))


def _with(use: n.Use, column: int) -> str:
    if not use.overrides:
        return ""
    return "with " + ", ".join(_override(clause, column) for clause in use.overrides)


def _use(use: n.Use, call: int, at: int) -> str:
    words = [f"{_call(use):<{call}}", f"{_at(use):<{at}}", _with(use, ONE_LINE)]
    line = "  ".join(words).rstrip()
    if INDENT + len(line) <= WIDTH:
        return line
    head = _call(use)
    if INDENT + len(head) > WIDTH:
        head = listed(f"{use.method.text}(", use.arguments, _argument, ")", INDENT)
    lines = [head]
    deeper = INDENT * 2
    if use.at:
        lines.append("at " + selector(use.at, column=deeper + 3))
    if use.overrides:
        texts = [_override(clause, deeper + 5) for clause in use.overrides]
        lines.append("with " + (",\n" + " " * (deeper + 5)).join(texts))
    return ("\n" + " " * deeper).join(lines)


def _argument(node: n.Argument, indent: int) -> str:
    head = f"{node.name.text} = " if node.name else ""
    return head + expression(node.value, indent=indent, column=indent + len(head), tail=1)

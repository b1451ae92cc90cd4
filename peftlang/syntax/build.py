"""What each rule of the grammar becomes.

An action takes the children of its rule, keywords and signs included, and remembers nothing from
one rule to the next, so the parser may take back what it has read.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lark import Token, Transformer

from peftlang.diagnostics import Span
from peftlang.syntax import nodes as n
from peftlang.syntax.mistake import Mistake
from peftlang.syntax.selectors import Selected, joined, narrowed

MAX_NESTING = 100

Action = Callable[[list[Any]], Any]


def too_deep(span: Span) -> Mistake:
    """The mistake of nesting past `MAX_NESTING`."""
    said = f"this is nested more than {MAX_NESTING} levels deep"
    return Mistake("P007", said, span, "give the inner part a name with `let`")


class Listed(NamedTuple):
    """Several nodes and their place, brackets included; None where nothing was written."""

    span: Span | None
    items: tuple[Any, ...]


class Tapped(NamedTuple):
    """What is tapped: which value, of which sites."""

    span: Span
    value: n.Ident
    selector: n.Selector


def place(token: Token) -> Span:
    """Where a token stands in its text."""
    assert token.start_pos is not None
    assert token.end_pos is not None
    return Span(token.start_pos, token.end_pos)


def _span(children: Sequence[Any]) -> Span:
    """From the first child that has a place to the last."""
    spans = [place(one) if isinstance(one, Token) else one.span for one in children if one]
    found = [span for span in spans if span is not None]
    return found[0].to(found[-1])


def _values(children: Sequence[Any]) -> list[Any]:
    """The children that say something, lists as tuples: no keyword, no sign, nothing left out."""
    kept = [child for child in children if child is not None and not isinstance(child, Token)]
    return [child.items if isinstance(child, Listed) else child for child in kept]


# --- actions of the plain rules ---


def _node(kind: Callable[..., n.Node]) -> Action:
    """A node whose fields are what the rule says, in its order."""
    return lambda children: kind(_span(children), *_values(children))


def _clause(kind: Callable[..., n.Node]) -> Action:
    return lambda children: _bounded(kind(_span(children), *_values(children)))


def _with_rest(kind: Callable[..., n.Node], first: int = 1) -> Action:
    """As `_node`, but what follows the first fields is one tuple."""

    def action(children: list[Any]) -> n.Node:
        values = _values(children)
        return kind(_span(children), *values[:first], tuple(values[first:]))

    return action


def _operation(kind: Callable[..., n.Node]) -> Action:
    def action(children: list[Any]) -> n.Node:
        left, sign, right = children
        return kind(_span(children), str(sign), left, right, place(sign))

    return action


def _listed(children: list[Any]) -> Listed:
    return Listed(_span(children) if children else None, tuple(_values(children)))


def _bounded(node: n.Node) -> n.Node:
    """The node, unless it is so deep that walking it by recursion would exhaust the stack."""
    if node.span.end - node.span.start > MAX_NESTING and _depth(node) > MAX_NESTING:
        raise too_deep(node.span)
    return node


def _depth(root: n.Node) -> int:
    """How many nodes lie one inside the other."""
    depth, level = 0, [root]
    while level:
        depth, level = depth + 1, [child for node in level for child in n.children(node)]
    return depth


# --- actions of the others ---


def _ident(token: Token) -> n.Ident:
    return n.Ident(place(token), str(token))


def _number(token: Token) -> n.Number:
    return n.Number(place(token), int(token) if token.isdigit() else float(token), str(token))


def _docstring(token: Token) -> n.Docstring:
    *lines, last = token[3:-3].replace("\r\n", "\n").split("\n")
    return n.Docstring(place(token), "\n".join([*(line.rstrip() for line in lines), last]))


def _file(children: list[Any]) -> n.File:
    """The file but for what is beside the tree."""
    docstring, *items = children
    return n.File(Span(0, 0), tuple(item for item in items if item is not None), docstring)


def _item(children: list[Any]) -> n.Method | n.Adapter:
    # The docstring of an item stands before it, so the item begins behind the docstring.
    docstring, item = children
    documented: n.Method | n.Adapter = replace(item, docstring=docstring)
    return documented


def _imported(children: list[Any]) -> n.ImportedName:
    name, _, alias = children
    return n.ImportedName(_span(children), name, alias)


def _parameter(children: list[Any]) -> n.Node:
    name, _, kind, _, default = children
    return _bounded(n.HyperParameter(_span(children), name, kind, default))


def _sharing(children: list[Any]) -> n.Node:
    names, axis = _values(children) or ((), None)
    return _bounded(n.Sharing(_span(children), names, axis))


def _tap(children: list[Any]) -> n.Node:
    name, dims, tapped = _values(children)
    return _bounded(n.Tap(_span(children), name, dims, tapped.value, tapped.selector))


def _tapped_role(children: list[Any]) -> Tapped:
    role, scopes = children
    if len(role.parts) == 1:
        raise Mistake(
            "P019",
            f"`{role.text}` does not say which value is tapped",
            role.span,
            f"such as `{role.text}.h`, what comes out of it",
        )
    *parts, value = role.parts
    end = Span(role.span.end - len(value), role.span.end)
    site = n.Role(Span(role.span.start, end.start - 1), tuple(parts))
    return Tapped(_span(children), n.Ident(end, value), narrowed(site, scopes.items, end))


def _tapped_path(children: list[Any]) -> Tapped:
    path, _, value, scopes = children
    site = n.Glob(path.span, path.value)
    return Tapped(_span(children), value, narrowed(site, scopes.items, value.span))


def _use(children: list[Any]) -> n.Node:
    name, arguments, _, at, overrides = children
    for argument in arguments.items:
        if isinstance(argument, n.Over):
            raise Mistake(
                "P012",
                "`over` has no meaning in the arguments of a method",
                argument.span,
                "name a hyper-parameter, as in `r = 8`",
            )
    use = n.Use(_span(children), _ident(name), arguments.items, at, overrides.items)
    return _bounded(use)


def _role(children: list[Any]) -> n.Role:
    return n.Role(_span(children), tuple(name.text for name in _values(children)))


def _selected(children: list[Any]) -> Selected:
    return Selected(_span(children), children[0], children[1].items)


def _side(children: list[Any]) -> n.Side | n.Layers:
    name = children[1].text
    return n.Layers(_span(children), ()) if name == "layers" else n.Side(_span(children), name)


def _layers(children: list[Any]) -> n.Layers:
    name, *ranges = _values(children)
    if name.text != "layers":
        raise Mistake(
            "P018",
            f"`{name.text}` cannot be counted",
            name.span,
            "layers are chosen by `in layers[0..3]`, a part of the model by `in decoder`",
        )
    return n.Layers(_span(children), tuple(ranges))


def _argument(children: list[Any]) -> n.Argument:
    name, _, value = children
    return n.Argument(_span(children), name, value)


_CLAUSES = (
    *(n.Param, n.Buffer, n.Input, n.Carry, n.Let, n.Position, n.Function, n.Insertion),
    *(n.Composition, n.Penalty, n.Rate, n.Ensure, n.Train, n.Tie),
)
_LISTS = ("parameters", "dims", "names", "exprs", "arguments", "overrides", "scopes")

ACTIONS: dict[str, Callable[[Any], Any]] = {
    # tokens
    "NAME": _ident,
    "STRING": lambda token: n.String(place(token), token[1:-1]),
    "NUMBER": _number,
    "DOCSTRING": _docstring,
    # a file
    "start": _file,
    "item": _item,
    "import_": _with_rest(n.Import),
    "imported": _imported,
    "method": _with_rest(n.Method, 2),
    "adapter": _with_rest(n.Adapter, 2),
    "parameter": _parameter,
    # clauses, and the lines of an adapter
    **{kind.__name__.lower(): _clause(kind) for kind in _CLAUSES},
    **dict.fromkeys(_LISTS, _listed),
    "tap": _tap,
    "tapped_role": _tapped_role,
    "tapped_path": _tapped_path,
    "sharing": _sharing,
    "joined": lambda children: n.Joined(_span(children), tuple(_values(children))),
    "grouped": _node(n.Grouped),
    "use": _use,
    # selectors
    "selector": joined,
    "selected": _selected,
    "role": _role,
    "glob": lambda children: n.Glob(children[0].span, children[0].value),
    "parenthesised": lambda children: replace(children[1], span=_span(children)),
    "side": _side,
    "layers": _layers,
    "except_": _node(n.Except),
    "where": _node(n.Where),
    "one_layer": lambda children: n.LayerRange(children[0].span, children[0], children[0]),
    "layers_to": lambda children: n.LayerRange(_span(children), children[0], children[2]),
    "layers_from": lambda children: n.LayerRange(_span(children), children[0], None),
    # expressions
    "logic": _operation(n.Logic),
    "compare": _operation(n.Compare),
    "binary": _operation(n.Binary),
    "negative": lambda children: n.Unary(_span(children), "-", children[1]),
    "name": lambda children: n.Name(children[0].span, children[0].text),
    "boolean": lambda children: n.Boolean(place(children[0]), children[0].type == "TRUE"),
    "in_parens": lambda children: replace(children[1], span=_span(children), parens=True),
    "call": _with_rest(n.Call),
    "index": _with_rest(n.Index),
    "argument": _argument,
    "over": _node(n.Over),
}


class Build(Transformer[Token, Any]):
    """The actions, as lark wants them."""

    def __init__(self) -> None:
        super().__init__()
        vars(self).update(ACTIONS)

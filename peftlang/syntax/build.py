"""What each rule of the grammar becomes: one method here for each rule or alias there."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from peftlang.diagnostics import Diagnostic, Source, Span, did_you_mean
from peftlang.syntax import nodes as n
from peftlang.syntax.lexer import MAX_NESTING, Token, too_deep


@dataclass(frozen=True, slots=True)
class Chain:
    """A list that grows at its end and shares its beginning.

    The parser goes back to an earlier state after an error; a list that is changed in place
    would not go back with it.
    """

    before: "Chain | None" = None
    item: Any = None
    span: Span | None = None

    def items(self) -> tuple[Any, ...]:
        """The items in order."""
        found: list[Any] = []
        link = self
        while link.before is not None:
            found.append(link.item)
            link = link.before
        return tuple(reversed(found))


EMPTY = Chain()

_N = TypeVar("_N", bound=n.Node)


class Dropped(Exception):
    """A clause that cannot be kept; its diagnostic has been given."""


def span_of(children: Iterable[Any]) -> Span:
    """From the first child that has a place to the last."""
    spans: list[Span] = [
        child.span for child in children if child is not None and child.span is not None
    ]
    return spans[0].to(spans[-1])


def _ident(token: Token) -> n.Ident:
    return n.Ident(token.span, token.text)


class Build:
    """Callbacks of the parser; each takes the children of its rule, tokens included."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.diagnostics: list[Diagnostic] = []

    def _report(self, code: str, message: str, span: Span, mend: str | None = None) -> None:
        self.diagnostics.append(Diagnostic(code, message, self.source, span, help=mend))

    # --- lists ---

    def empty(self, _: list[Any]) -> Chain:
        return EMPTY

    def nothing(self, children: list[Any]) -> Chain:
        return Chain(span=span_of(children))

    def one(self, children: list[Any]) -> Chain:
        return Chain(EMPTY, children[0], children[0].span)

    def more(self, children: list[Any]) -> Chain:
        return Chain(children[0], children[-1], span_of(children))

    def inner(self, children: list[Any]) -> Chain:
        chain: Chain = children[1]
        return Chain(chain.before, chain.item, span_of(children))

    def one_ident(self, children: list[Any]) -> Chain:
        return self.one([_ident(children[0])])

    def more_idents(self, children: list[Any]) -> Chain:
        return self.more([children[0], _ident(children[-1])])

    def exprs(self, children: list[Any]) -> Any:
        return children[0]

    def itself(self, children: list[Any]) -> Any:
        return children[0]

    def last(self, children: list[Any]) -> Any:
        found = children[-1]
        return _ident(found) if isinstance(found, Token) else found

    def absent(self, _: list[Any]) -> None:
        return None

    # --- the file ---

    def start(self, children: list[Any]) -> n.File:
        items: list[n.Item] = []
        opening: n.Docstring | None = None
        waiting: n.Docstring | None = None
        for item in children[0].items():
            if isinstance(item, Token):
                self._misplaced(waiting)
                waiting = _docstring(item)
                continue
            if isinstance(item, n.Import):
                if waiting is not None and not items:
                    opening = waiting
                else:
                    self._misplaced(waiting)
                items.append(item)
            else:
                # The docstring of an item stands before it, so the item begins there.
                items.append(replace(item, docstring=waiting))
            waiting = None
        self._misplaced(waiting)
        span = Span(0, len(self.source.text))
        return n.File(span, tuple(items), opening, source=self.source)

    def _misplaced(self, docstring: n.Docstring | None) -> None:
        if docstring is not None:
            self._report(
                "P014",
                "this docstring belongs to nothing",
                Span(docstring.span.start, docstring.span.start + 3),
                "a docstring stands before `method` or `adapter`, or before the first import",
            )

    def import_(self, children: list[Any]) -> n.Import:
        return n.Import(span_of(children), children[1], children[3].items())

    def ident(self, children: list[Any]) -> n.Ident:
        return _ident(children[0])

    def imported(self, children: list[Any]) -> n.ImportedName:
        alias = _ident(children[2]) if len(children) == 3 else None
        return n.ImportedName(span_of(children), _ident(children[0]), alias)

    def method(self, children: list[Any]) -> n.Method:
        _, name, hypers, _, clauses, _ = children
        return n.Method(span_of(children), _ident(name), hypers.items(), clauses.items())

    def adapter(self, children: list[Any]) -> n.Adapter:
        _, name, hypers, _, clauses, _ = children
        return n.Adapter(span_of(children), _ident(name), hypers.items(), clauses.items())

    def hyper(self, children: list[Any]) -> n.HyperParameter:
        type_ = _ident(children[2])
        default = children[4] if len(children) == 5 else None
        if type_.text not in n.TYPES:
            self._report(
                "P016",
                f"`{type_.text}` is not a type of hyper-parameter",
                type_.span,
                did_you_mean(type_.text, n.TYPES) or f"the types are {', '.join(n.TYPES)}",
            )
        node = n.HyperParameter(span_of(children), _ident(children[0]), type_, default)
        return self._kept(node)

    # --- clauses ---

    def _kept(self, node: _N) -> _N:
        """The node, unless it is so deep that walking it would exhaust the stack."""
        if node.span.end - node.span.start > MAX_NESTING and _depth(node) > MAX_NESTING:
            self.diagnostics.append(too_deep(self.source, node.span))
            raise Dropped
        return node

    def param(self, children: list[Any]) -> n.Param:
        _, name, dims, _, init, shared = children
        return self._kept(n.Param(span_of(children), _ident(name), dims.items(), init, shared))

    def buffer(self, children: list[Any]) -> n.Buffer:
        _, name, dims, _, init, shared = children
        return self._kept(n.Buffer(span_of(children), _ident(name), dims.items(), init, shared))

    def input(self, children: list[Any]) -> n.Input:
        _, name, dims, _, type_ = children
        return self._kept(n.Input(span_of(children), _ident(name), dims.items(), type_))

    def carry(self, children: list[Any]) -> n.Carry:
        _, name, dims, _, init = children
        return self._kept(n.Carry(span_of(children), _ident(name), dims.items(), init))

    def tap(self, children: list[Any]) -> n.Tap:
        _, name, dims, _, (selector, value) = children
        place = span_of(children)
        return self._kept(n.Tap(place, _ident(name), dims.items(), value, selector))

    def tapped_role(self, children: list[Any]) -> "Tapped":
        role, scopes = children[0], children[1].items()
        if len(role.parts) == 1:
            self._report(
                "P019",
                f"`{role.text}` does not say which value is tapped",
                role.span,
                f"such as `{role.text}.h`, what comes out of it",
            )
            raise Dropped
        *parts, value = role.parts
        end = Span(role.span.end - len(value), role.span.end)
        base = n.Role(Span(role.span.start, end.start - 1), tuple(parts))
        return Tapped(_scoped_by(base, scopes, end), n.Ident(end, value))

    def tapped_path(self, children: list[Any]) -> "Tapped":
        pattern, _, value, scopes = children
        base = n.Glob(pattern.span, pattern.text[1:-1])
        return Tapped(_scoped_by(base, scopes.items(), value.span), _ident(value))

    def let(self, children: list[Any]) -> n.Let:
        return self._kept(n.Let(span_of(children), _ident(children[1]), children[3]))

    def position(self, children: list[Any]) -> n.Position:
        return self._kept(n.Position(span_of(children), children[1]))

    def function(self, children: list[Any]) -> n.Function:
        return self._kept(n.Function(span_of(children), _ident(children[1]), children[3]))

    def insertion(self, children: list[Any]) -> n.Insertion:
        return n.Insertion(span_of(children), _ident(children[1]))

    def composition(self, children: list[Any]) -> n.Composition:
        return self._kept(n.Composition(span_of(children), _ident(children[1]), children[3]))

    def sharing(self, children: list[Any]) -> n.Sharing:
        if len(children) == 2:
            return n.Sharing(span_of(children), (), None)
        return self._kept(n.Sharing(span_of(children), children[1].items(), children[3]))

    def grouped_axis(self, children: list[Any]) -> n.Grouped:
        return n.Grouped(span_of(children), _ident(children[0]), children[2])

    def joined_axis(self, children: list[Any]) -> n.Joined:
        return n.Joined(span_of(children), (*n.axes_of(children[0]), children[2]))

    def rate(self, children: list[Any]) -> n.Rate:
        return self._kept(n.Rate(span_of(children), children[1].items(), children[3]))

    def penalty(self, children: list[Any]) -> n.Penalty:
        return self._kept(n.Penalty(span_of(children), children[1]))

    def ensure(self, children: list[Any]) -> n.Ensure:
        return self._kept(n.Ensure(span_of(children), children[1].items()))

    def use(self, children: list[Any]) -> n.Use:
        method, arguments, at, overrides = children
        given: list[n.Argument] = []
        for argument in arguments.items():
            if isinstance(argument, n.Over):
                self._report(
                    "P012",
                    "`over` has no meaning in the arguments of a method",
                    argument.span,
                    "name a hyper-parameter, as in `r = 8`",
                )
            else:
                given.append(argument)
        place = span_of(children)
        return self._kept(n.Use(place, _ident(method), tuple(given), at, overrides.items()))

    def train(self, children: list[Any]) -> n.Train:
        return self._kept(n.Train(span_of(children), children[1]))

    def tie(self, children: list[Any]) -> n.Tie:
        return self._kept(n.Tie(span_of(children), children[1].items(), children[3].items()))

    # --- selectors ---

    def role(self, children: list[Any]) -> n.Role:
        return n.Role(children[0].span, tuple(part.text for part in children[0].items()))

    def glob(self, children: list[Any]) -> n.Glob:
        return n.Glob(children[0].span, children[0].text[1:-1])

    def grouped(self, children: list[Any]) -> n.Selector:
        selector: n.Selector = replace(children[1], span=span_of(children))
        return selector

    def select_item(self, children: list[Any]) -> "Selected":
        return Selected(span_of(children), children[0], children[1].items())

    def selector(self, children: list[Any]) -> n.Selector:
        return join_selected(children[0].items())

    def side(self, children: list[Any]) -> n.Side | n.Layers:
        if children[1].text == "layers":
            return n.Layers(span_of(children), ())
        return n.Side(span_of(children), children[1].text)

    def layers(self, children: list[Any]) -> n.Layers:
        if children[1].text != "layers":
            self._report(
                "P018",
                f"`{children[1].text}` cannot be counted",
                children[1].span,
                "layers are chosen by `in layers[0..3]`, a part of the model by `in decoder`",
            )
        return n.Layers(span_of(children), children[3].items())

    def except_(self, children: list[Any]) -> n.Except:
        return n.Except(span_of(children), children[1])

    def where(self, children: list[Any]) -> n.Where:
        return n.Where(span_of(children), children[1])

    def range_single(self, children: list[Any]) -> n.LayerRange:
        return n.LayerRange(span_of(children), children[0], children[0])

    def range_both(self, children: list[Any]) -> n.LayerRange:
        return n.LayerRange(span_of(children), children[0], children[2])

    def range_from(self, children: list[Any]) -> n.LayerRange:
        return n.LayerRange(span_of(children), children[0], None)

    def range_to(self, children: list[Any]) -> n.LayerRange:
        return n.LayerRange(span_of(children), None, children[1])

    # --- expressions ---

    def name(self, children: list[Any]) -> n.Name:
        return n.Name(children[0].span, children[0].text)

    def number(self, children: list[Any]) -> n.Number:
        text = children[0].text
        return n.Number(children[0].span, int(text) if text.isdigit() else float(text), text)

    def string(self, children: list[Any]) -> n.String:
        return n.String(children[0].span, children[0].text[1:-1])

    def boolean(self, children: list[Any]) -> n.Boolean:
        return n.Boolean(children[0].span, children[0].type == "TRUE")

    def parens(self, children: list[Any]) -> n.Expr:
        expression: n.Expr = replace(children[1], parens=True, span=span_of(children))
        return expression

    def unary(self, children: list[Any]) -> n.Unary:
        return n.Unary(span_of(children), "-", children[1])

    def binary(self, children: list[Any]) -> n.Binary:
        left, op, right = children
        return n.Binary(span_of(children), op.text, left, right, op.span)

    def compare(self, children: list[Any]) -> n.Compare:
        left, op, right = children
        return n.Compare(span_of(children), op.text, left, right, op.span)

    def logic(self, children: list[Any]) -> n.Logic:
        left, op, right = children
        return n.Logic(span_of(children), op.text, left, right, op.span)

    def index(self, children: list[Any]) -> n.Index:
        return n.Index(span_of(children), children[0], children[2].items())

    def call(self, children: list[Any]) -> n.Call:
        return n.Call(span_of(children), _ident(children[0]), children[1].items())

    def argument_list(self, children: list[Any]) -> Any:
        return children[0]

    def placed(self, children: list[Any]) -> n.Argument:
        return n.Argument(children[0].span, None, children[0])

    def named(self, children: list[Any]) -> n.Argument:
        return n.Argument(span_of(children), _ident(children[0]), children[2])

    def over(self, children: list[Any]) -> n.Over:
        return n.Over(span_of(children), children[1])


@dataclass(frozen=True, slots=True)
class Selected:
    """One entry of a selector's list and the scopes written after it."""

    span: Span
    base: n.Selector
    scopes: tuple[n.Scope, ...]


class Tapped(NamedTuple):
    """What `tapped` becomes: which site, and which of its values."""

    selector: n.Selector
    value: n.Ident

    @property
    def span(self) -> Span:
        ends = self.selector.span, self.value.span
        return Span(min(s.start for s in ends), max(s.end for s in ends))


def _scoped_by(base: n.Selector, scopes: tuple[n.Scope, ...], value: Span) -> n.Selector:
    if not scopes:
        return base
    return n.Scoped(base.span.to(value).to(scopes[-1].span), base, scopes)


def join_selected(entries: tuple[Selected, ...]) -> n.Selector:
    """A list of entries as one selector, each scope reaching back as `Scoped` says."""
    options: list[n.Selector] = []
    waiting: list[n.Selector] = []
    scopes: list[n.Scope] = []
    for entry in entries:
        if scopes and isinstance(scopes[-1], n.Except):
            excepted = _either([scopes[-1].selector, entry.base])
            scopes[-1] = n.Except(scopes[-1].span.to(entry.base.span), excepted)
        else:
            if scopes:
                options.append(_scoped(waiting, scopes))
                waiting, scopes = [], []
            waiting.append(entry.base)
        scopes.extend(entry.scopes)
    if scopes:
        options.append(_scoped(waiting, scopes))
    else:
        options.extend(waiting)
    return _either(options)


def _scoped(waiting: list[n.Selector], scopes: list[n.Scope]) -> n.Scoped:
    base = _either(waiting)
    return n.Scoped(base.span.to(scopes[-1].span), base, tuple(scopes))


def _either(options: list[n.Selector]) -> n.Selector:
    flat: list[n.Selector] = []
    for option in options:
        flat.extend(option.options if isinstance(option, n.Either) else [option])
    if len(flat) == 1:
        return flat[0]
    return n.Either(options[0].span.to(options[-1].span), tuple(flat))


def _docstring(token: Token) -> n.Docstring:
    lines = token.text[3:-3].replace("\r\n", "\n").split("\n")
    return n.Docstring(
        token.span,
        "\n".join(line.rstrip() for line in lines[:-1])
        + ("\n" if len(lines) > 1 else "")
        + lines[-1],
    )


def _depth(root: n.Node) -> int:
    """How many nodes lie one inside the other; without recursion."""
    deepest = 0
    waiting: list[tuple[Any, int]] = [(root, 1)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        for slot in type(node).__slots__:
            child = getattr(node, slot)
            if isinstance(child, n.Node):
                waiting.append((child, depth + 1))
            elif isinstance(child, tuple):
                waiting.extend((one, depth + 1) for one in child if isinstance(one, n.Node))
    return deepest

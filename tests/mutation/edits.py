"""Small changes of a spec's tree: what a slip of the pen would make of it.

An edit says what kind of slip it is and gives the changed node. Whether the changed spec is still
well typed is for the checker to say, so edits need not know types.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from peftlang.syntax import nodes as n

Edit = tuple[str, Any]
"""The kind of a slip, and the changed node."""


@dataclass(frozen=True)
class Names:
    """What a name could be mistaken for: tensors and values, numbers, and dimensions."""

    values: tuple[str, ...]
    numbers: tuple[str, ...]
    dims: tuple[str, ...]


Rule = Callable[[Any, Names], Iterator[Edit]]

_SITE_VALUES = ("x", "h", "W", "b", "q", "k", "v", "resid")
_SITE_DIMS = ("d_x", "d_h", "d_head", "heads", "kv_heads", "layers")
_ACTIVATIONS = ("relu", "gelu", "tanh", "sigmoid")
_REDUCTIONS = ("sum", "mean", "max", "norm")
_AXES = ("model", "stack", "layers", "roles")


def names_of(method: n.Method) -> Names:
    """Every name that an expression of the method may read."""
    integers = [p.name.text for p in method.parameters if p.type.text == "int"]
    numbers = [p.name.text for p in method.parameters if p.type.text in ("int", "float")]
    declared = (n.Param, n.Buffer, n.Input, n.Carry, n.Let, n.Function)
    own = [c.name.text for c in method.clauses if isinstance(c, declared)]
    return Names((*own, *_SITE_VALUES), tuple(numbers), (*integers, *_SITE_DIMS))


def edits(node: Any, rule: Rule, names: Names) -> Iterator[Edit]:
    """The node with one change by the rule, at itself or anywhere below."""
    yield from rule(node, names)
    for field in fields(node):
        if field.compare and field.name not in {"docstring", "source"}:
            yield from _below(node, field.name, rule, names)


def _below(node: Any, field: str, rule: Rule, names: Names) -> Iterator[Edit]:
    held = getattr(node, field)
    if isinstance(held, n.Node):
        for kind, changed in edits(held, rule, names):
            yield kind, replace(node, **{field: changed})
    elif isinstance(held, tuple):
        for index, one in enumerate(held):
            if isinstance(one, n.Node):
                for kind, changed in edits(one, rule, names):
                    new = (*held[:index], changed, *held[index + 1 :])
                    yield kind, replace(node, **{field: new})


def in_expression(node: Any, names: Names) -> Iterator[Edit]:
    """Slips in one node of an expression."""
    match node:
        case n.Binary():
            yield from _operator(node)
        case n.Unary():
            yield "sign", node.operand
        case n.Call():
            yield from _call(node, names)
        case n.Number():
            yield from _number(node)
        case n.Name():
            yield from _name(node, names)
        case n.Index():
            yield "indexing dropped", node.base


def _operator(node: n.Binary) -> Iterator[Edit]:
    kinds = {
        "+": "term dropped",
        "-": "term dropped",
        "*": "factor dropped",
        "/": "divisor dropped",
        "@": "factor dropped",
        "**": "power dropped",
    }
    yield kinds[node.op], node.left
    yield kinds[node.op] if node.op != "/" else "dividend dropped", node.right
    others = {"+": ("-", "*"), "-": ("+",), "*": ("+", "/"), "/": ("*",), "@": ("*",), "**": ("*",)}
    for op in others[node.op]:
        kind = "sign" if {op, node.op} == {"+", "-"} else "operator"
        yield kind, replace(node, op=op)
    if node.op in "-/@":
        yield "operands swapped", replace(node, left=node.right, right=node.left)


def _call(node: n.Call, names: Names) -> Iterator[Edit]:
    word, given = node.function.text, node.arguments
    if given and isinstance(given[0], n.Argument) and given[0].name is None:
        yield (
            f"{word} dropped" if word in {"stop_gradient", "transpose"} else "call dropped",
            given[0].value,
        )
    by_place = sum(isinstance(one, n.Argument) and one.name is None for one in given)
    for index in range(by_place - 1):
        swapped = (*given[:index], given[index + 1], given[index], *given[index + 2 :])
        yield "arguments swapped", replace(node, arguments=swapped)
    groups = (_ACTIVATIONS, _REDUCTIONS, ("softmax", "layer_norm", "rms_norm"))
    for group in groups:
        if word in group:
            for other in group:
                if other != word:
                    yield "function replaced", _renamed(node, other)
    for index, one in enumerate(given):
        if isinstance(one, n.Over) and isinstance(one.dim, n.Name):
            for dim in names.dims:
                if dim != one.dim.text:
                    over = replace(one, dim=replace(one.dim, text=dim))
                    yield (
                        "axis",
                        replace(node, arguments=(*given[:index], over, *given[index + 1 :])),
                    )
        if isinstance(one, n.Argument) and one.name is not None:
            yield "argument dropped", replace(node, arguments=(*given[:index], *given[index + 1 :]))


def _renamed(node: n.Call, name: str) -> n.Call:
    return replace(node, function=replace(node.function, text=name))


def _number(node: n.Number) -> Iterator[Edit]:
    for value in (node.value + 1, 2 * node.value, -node.value):
        if value != node.value:
            yield (
                "constant",
                replace(node, value=abs(value), text=repr(abs(value)))
                if value >= 0
                else n.Unary(node.span, "-", node),
            )


def _name(node: n.Name, names: Names) -> Iterator[Edit]:
    for other in (*names.values, *names.numbers):
        if other != node.text:
            yield "name", replace(node, text=other)
    if node.text not in (*names.numbers, *names.dims):
        yield "stop_gradient added", _called(node, "stop_gradient")
    yield "transposed", _called(node, "transpose")


def _called(node: n.Name, function: str) -> n.Call:
    argument = n.Argument(node.span, None, replace(node, parens=False))
    return n.Call(node.span, n.Ident(node.span, function), (argument,))


def in_sizes(node: Any, names: Names) -> Iterator[Edit]:
    """Slips in the dimensions of a tensor: another one, or one more."""
    if isinstance(node, n.Name):
        for other in names.dims:
            if other != node.text:
                yield "size", replace(node, text=other)
        more = n.Number(node.span, 1, "1")
        yield "size off by one", n.Binary(node.span, "+", node, more, node.span)
    elif isinstance(node, n.Binary):
        yield "size", node.left


def in_init(node: n.Expr, names: Names) -> Iterator[Edit]:
    """Other ways to start, and other numbers in the same way."""
    for text in ("zeros", "ones", "normal"):
        if not (isinstance(node, n.Name) and node.text == text):
            yield "start", n.Name(node.span, text)
    if isinstance(node, n.Name):
        return
    yield from edits(node, _in_start, names)


def _in_start(node: Any, names: Names) -> Iterator[Edit]:
    if isinstance(node, n.Number):
        yield from (("start", changed) for _, changed in _number(node))
    elif isinstance(node, n.Call):
        for kind, changed in _call(node, names):
            if kind in {"axis", "argument dropped", "function replaced", "arguments swapped"}:
                yield "start", changed


def in_method(method: n.Method) -> Iterator[Edit]:
    """The method with one slip in one of its clauses."""
    names = names_of(method)
    for index, clause in enumerate(method.clauses):
        for kind, changed in _in_clause(clause, names):
            kept = () if changed is None else (changed,)
            clauses = (*method.clauses[:index], *kept, *method.clauses[index + 1 :])
            yield kind, replace(method, clauses=clauses)
    for index, clause in enumerate(method.clauses):
        if isinstance(clause, n.Sharing | n.Rate):
            for kind, changed in _of_others(clause, method):
                clauses = (*method.clauses[:index], changed, *method.clauses[index + 1 :])
                yield kind, replace(method, clauses=clauses)
    if not any(isinstance(clause, n.Insertion) for clause in method.clauses):
        place = method.name.span
        inserted = n.Insertion(place, n.Ident(place, "sequential"))
        yield "insertion", replace(method, clauses=(*method.clauses, inserted))


def _of_others(clause: n.Sharing | n.Rate, method: n.Method) -> Iterator[Edit]:
    """The clause for another tensor, or across another axis."""
    for tensor in (c.name for c in method.clauses if isinstance(c, n.Param | n.Buffer)):
        if isinstance(clause, n.Rate):
            if (tensor,) != clause.names:
                yield "rate", replace(clause, names=(tensor,))
            continue
        for axis in _AXES:
            ident = n.Ident(clause.span, axis)
            if (tensor,) != clause.names or ident != clause.axis:
                yield "sharing", replace(clause, names=(tensor,), axis=ident)


def _in_clause(clause: n.Clause, names: Names) -> Iterator[Edit]:
    match clause:
        case n.Param() | n.Buffer():
            yield from _tensor(clause, names)
        case n.Carry():
            for word in ("zeros", "ones"):
                yield "start", replace(clause, init=n.Name(clause.span, word))
        case n.Let() | n.Function():
            yield from edits(clause, in_expression, names)
        case n.Penalty() | n.Rate():
            yield "clause dropped", None
            yield from _in_training(clause, names)
        case n.Composition():
            yield "clause dropped", None
            for target in ("h", "W", "b", "k", "v", "q"):
                if target != clause.target.text:
                    yield "target", replace(clause, target=replace(clause.target, text=target))
            yield from edits(clause, in_expression, names)
        case n.Insertion():
            other = "parallel" if clause.form.text == "sequential" else "sequential"
            yield "insertion", replace(clause, form=replace(clause.form, text=other))
        case n.Position():
            for kind, changed in in_selector(clause.selector):
                yield kind, replace(clause, selector=changed)


def _in_training(clause: n.Penalty | n.Rate, names: Names) -> Iterator[Edit]:
    if isinstance(clause, n.Penalty):
        yield from edits(clause, in_expression, names)
        return
    for name in names.numbers:
        yield "rate", replace(clause, value=n.Name(clause.span, name))


def _tensor(clause: n.Param | n.Buffer, names: Names) -> Iterator[Edit]:
    other = n.Buffer if isinstance(clause, n.Param) else n.Param
    yield "trainable", other(clause.span, clause.name, clause.dims, clause.init, clause.shared)
    for axis in (None, *_AXES):
        if axis != (clause.shared.text if isinstance(clause.shared, n.Ident) else None):
            shared = None if axis is None else n.Ident(clause.span, axis)
            yield "sharing", replace(clause, shared=shared)
    for index, dim in enumerate(clause.dims):
        for kind, changed in edits(dim, in_sizes, names):
            dims = (*clause.dims[:index], changed, *clause.dims[index + 1 :])
            yield kind, replace(clause, dims=dims)
    for kind, changed in in_init(clause.init, names):
        yield kind, replace(clause, init=changed)


_ROLES = (
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.o",
    "cross_attn.q",
    "cross_attn.v",
    "ffn.up",
    "ffn.down",
    "ffn",
    "attn",
    "cross_attn",
    "attn.core",
    "cross_attn.core",
    "block",
    "linear",
    "norm",
)


def in_selector(selector: n.Selector) -> Iterator[Edit]:
    """Another place, one place fewer, one place more, or a part of the model alone."""
    match selector:
        case n.Role():
            for role in _sisters(selector.text):
                yield "position", replace(selector, parts=tuple(role.split(".")))
        case n.Either():
            for index, option in enumerate(selector.options):
                rest = (*selector.options[:index], *selector.options[index + 1 :])
                yield "position", rest[0] if len(rest) == 1 else replace(selector, options=rest)
                for kind, changed in in_selector(option):
                    options = (*selector.options[:index], changed, *selector.options[index + 1 :])
                    yield kind, replace(selector, options=options)
    if not isinstance(selector, n.Scoped):
        span = selector.span
        ends = n.LayerRange(span, n.Number(span, 1, "1"), None)
        scopes = (n.Side(span, "decoder"), n.Side(span, "encoder"), n.Layers(span, (ends,)))
        for scope in scopes:
            yield "scope", n.Scoped(span, selector, (scope,))


def _sisters(role: str) -> tuple[str, ...]:
    """Other roles; parameters for parameters."""
    last = role.rpartition(".")[2]
    if last in {"weight", "bias"}:
        kinds = ("weight", "bias")
        every = (
            *kinds,
            *(f"{r}.{k}" for r in _ROLES for k in kinds),
            "norm",
            "linear",
            "head.bias",
        )
        return tuple(one for one in every if one != role)
    return tuple(one for one in _ROLES if one != role)


def in_adapter(adapter: n.Adapter) -> Iterator[Edit]:
    """The adapter with one slip in one of its uses."""
    for index, clause in enumerate(adapter.clauses):
        for kind, changed in _in_use(clause):
            kept = () if changed is None else (changed,)
            clauses = (*adapter.clauses[:index], *kept, *adapter.clauses[index + 1 :])
            yield kind, replace(adapter, clauses=clauses)


def _in_use(clause: n.Use | n.Train | n.Tie) -> Iterator[Edit]:
    if isinstance(clause, n.Tie):
        for index in range(len(clause.names)):
            rest = (*clause.names[:index], *clause.names[index + 1 :])
            yield "sharing", replace(clause, names=rest) if rest else None
        return
    if isinstance(clause, n.Train):
        yield from ((k, replace(clause, selector=s)) for k, s in in_selector(clause.selector))
        return
    yield "use dropped", None
    if clause.at is not None:
        yield from ((k, replace(clause, at=s)) for k, s in in_selector(clause.at))
    for index, argument in enumerate(clause.arguments):
        rest = (*clause.arguments[:index], *clause.arguments[index + 1 :])
        yield "argument dropped", replace(clause, arguments=rest)
        for kind, value in edits(argument.value, in_argument, Names((), (), ())):
            new = replace(argument, value=value)
            given = (*clause.arguments[:index], new, *clause.arguments[index + 1 :])
            yield kind, replace(clause, arguments=given)
    span = clause.span
    form = n.Insertion(span, n.Ident(span, "sequential"))
    yield "insertion", replace(clause, overrides=(*clause.overrides, form))


def in_argument(node: Any, names: Names) -> Iterator[Edit]:
    """Twice as much, or one more."""
    if isinstance(node, n.Name):
        for op, number in (("+", 1), ("*", 2)):
            right = n.Number(node.span, number, str(number))
            yield "argument", n.Binary(node.span, op, node, right, node.span)

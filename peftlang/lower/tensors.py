"""Parameters and buffers: their shapes, how they start, who shares them, how fast they learn."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, cast, get_args

from peftlang.diagnostics import did_you_mean
from peftlang.ir.dims import Dim
from peftlang.ir.expr import DimValue, Expr
from peftlang.ir.expr import names as tensors_read
from peftlang.ir.inits import INITIALISERS, Initialiser
from peftlang.ir.method import Axis, Init, TensorDef
from peftlang.ir.positions import SITE_DIMS
from peftlang.ir.sizes import numbers
from peftlang.ir.types import Level, Type
from peftlang.lower.arguments import Callee, bind
from peftlang.lower.constants import CALLABLE
from peftlang.lower.declare import Clauses
from peftlang.lower.expressions import in_brackets, lower_expression, read_dim, read_shape
from peftlang.lower.report import Fault, Placed, Report, every
from peftlang.lower.scope import SITE_VALUES, Scope
from peftlang.lower.walk import offsets
from peftlang.syntax import nodes as n

Kind = Literal["float", "int"]

AXES: tuple[str, ...] = get_args(Axis)

_ALONE = frozenset({"model", "stack", "experts"})
"""Axes that another adds nothing to, or that add nothing to another."""


@dataclass(frozen=True)
class Shared:
    """Who shares a tensor: axes, and the size of a group of layers where not all of them do."""

    axes: tuple[Axis, ...] = ()
    size: Placed[n.Expr] | None = None


def lower_tensors(clauses: Clauses, scope: Scope, report: Report) -> list[TensorDef]:
    """The parameters and buffers of a method, in order.

    Args:
        clauses: The method's.
        scope: What names stand for; takes the types of the tensors.
        report: Takes N103, N110, N111, M301, M306, M307, M315, M317, T208, T209 and what the
            expressions get wrong.
    """
    shared = _sharing(clauses, report)
    rates = _rates(clauses, scope, report)

    def lower(clause: Placed[n.Param | n.Buffer]) -> TensorDef:
        node, name, trainable = clause.node, clause.node.name.text, isinstance(clause.node, n.Param)
        scope.tensors.setdefault(name, None)
        dims = read_shape(node.dims, scope)
        kind: Kind = "float"
        try:
            init = _start(clause, dims, scope)
            kind = INITIALISERS[init.name].kind if init.name else kind
        finally:
            # What reads it is checked even where its initial value is wrong.
            scope.tensors[name] = Type(dims, Level.CONST, kind)
        axes = shared.get(name, Shared())
        group = None
        if axes.size is not None:
            with report.faults(axes.size.source):
                group = _group(axes.size.node, scope)
        return TensorDef(
            name=name,
            dims=dims,
            init=init,
            trainable=trainable,
            shared=axes.axes,
            group=group,
            rate=rates.get(name),
            kind=kind,
            span=offsets(node),
        )

    return report.each(clauses.tensors, lower)


def _start(clause: Placed[n.Param | n.Buffer], dims: tuple[Dim, ...], scope: Scope) -> Init:
    """How a tensor starts: by the table of initialisers, or an expression of W, b and others."""
    expr, declared = clause.node.init, scope.declared.names
    name: n.Ident | n.Name | None = expr.function if isinstance(expr, n.Call) else None
    if isinstance(expr, n.Name) and expr.text not in declared:
        name = expr
    if name is not None and name.text in INITIALISERS:
        entry = INITIALISERS[name.text]
        if entry.kind == "int" and isinstance(clause.node, n.Param):
            message = f"`{name.text}` makes whole numbers, which cannot be trained"
            raise Fault("T209", message, name, help="declare it as a `buffer`")
        return _initialised(entry, clause, name, dims, scope)
    alone = isinstance(name, n.Name) and name.text in SITE_VALUES | SITE_DIMS
    if name is not None and name.text not in CALLABLE and not alone:
        there_are = f"there are {', '.join(INITIALISERS)}"
        advice = did_you_mean(name.text, {*INITIALISERS, *CALLABLE}) or there_are
        raise Fault("N103", f"there is no initialiser `{name.text}`", name, help=advice)
    value = lower_expression(expr, clause.source, scope, at_start=True)
    if value.type.dims != dims:
        message = f"the tensor is {in_brackets(dims)}, and this value is {value.type}"
        fills = f"`constant({clause.source.slice(expr.span)})` fills it"
        raise Fault("T208", message, expr, help=None if value.type.dims else fills)
    return Init(expression=value)


def _initialised(
    entry: Initialiser,
    clause: Placed[n.Param | n.Buffer],
    name: n.Node,
    dims: tuple[Dim, ...],
    scope: Scope,
) -> Init:
    expr = clause.node.init
    arguments = expr.arguments if isinstance(expr, n.Call) else ()
    usage = f"it is called as `{entry.signature}`"
    bound = bind(name, arguments, Callee(entry.name, usage, entry.arity, entry.keywords))

    def lower(named: tuple[str, n.Expr]) -> Expr:
        name, argument = named
        if entry.dims and name in entry.operands:
            value: Expr = DimValue(read_dim(argument, scope, sized=True), Type(kind="int"))
        else:
            value = lower_expression(argument, clause.source, scope, at_start=True)
        if value.type.dims:
            raise Fault("T209", f"a number is wanted here, and this is {value.type}", argument)
        number = numbers([value], {}).get(id(value))
        fault = None if number is None else entry.wrong_argument(name, number)
        if fault is not None:
            raise Fault("T212", fault, argument)
        return value

    args = every(lower, zip(entry.operands, bound.operands, strict=True))
    keywords = every(lower, bound.keywords.items())
    fault = entry.check(dims)
    if fault is not None:
        raise Fault("T208", f"{fault}, and the tensor is {in_brackets(dims)}", expr)
    named = tuple(zip(bound.keywords, keywords, strict=True))
    return Init(name=entry.name, args=tuple(args), keywords=named)


def _sharing(clauses: Clauses, report: Report) -> dict[str, Shared]:
    """Who shares each tensor, from declarations and ``sharing`` clauses."""
    found: dict[str, Shared] = {}
    tensors = {clause.node.name.text for clause in clauses.tensors}

    def share(name: n.Ident, axis: Placed[n.Axis]) -> None:
        if name.text not in tensors:
            advice = did_you_mean(name.text, tensors)
            raise Fault("M306", f"`{name.text}` is not a tensor of this method", name, help=advice)
        shared = _shared(axis)
        if name.text in found:
            raise Fault("M301", f"the sharing of `{name.text}` is said twice", name)
        found[name.text] = shared

    for clause in clauses.tensors:
        if clause.node.shared is not None:
            with report.faults(clause.source):
                share(clause.node.name, clause.beside(clause.node.shared))
    sharings = clauses.of(n.Sharing)
    for sharing in sharings:
        axis = sharing.node.axis
        with report.faults(sharing.source):
            if axis is None and (len(sharings) > 1 or found):
                message = "`sharing none` stands beside tensors that are shared"
                raise Fault("M301", message, sharing.node, help="leave it out")
            if axis is not None:
                every(partial(share, axis=sharing.beside(axis)), sharing.node.names)
    return found


def _shared(axis: Placed[n.Axis]) -> Shared:
    parts = n.axes_of(axis.node)
    names = every(_axis, parts)
    axes = tuple(dict.fromkeys(names))
    if len(axes) < len(parts) or (len(axes) > 1 and not _ALONE.isdisjoint(axes)):
        message = "one of these says it all, or is said twice"
        raise Fault("M307", message, axis.node, help="name each axis once")
    sizes = [axis.beside(part.size) for part in parts if isinstance(part, n.Grouped)]
    return Shared(axes, sizes[0] if sizes else None)


def _axis(part: n.Ident | n.Grouped) -> Axis:
    name = part.name if isinstance(part, n.Grouped) else part
    if name.text not in AXES:
        advice = did_you_mean(name.text, AXES) or f"there are {', '.join(AXES)}"
        raise Fault("M307", f"`{name.text}` is not something to share across", name, help=advice)
    if name is not part and name.text != "layers":
        advice = "`layers(4)` is a group of four layers"
        raise Fault("M307", f"`{name.text}` has no groups", part, help=advice)
    return cast("Axis", name.text)


def _group(size: n.Expr, scope: Scope) -> Dim:
    """The size of a group of layers: whole numbers and hyper-parameters alone."""
    found = read_dim(size, scope, sized=True)
    if found.constant == 0 or not found.symbols <= set(scope.declared.sizes):
        message = "a group is of so many layers, the same everywhere"
        raise Fault("M307", message, size, help="write a whole number")
    return found


def _rates(clauses: Clauses, scope: Scope, report: Report) -> dict[str, Expr]:
    """The learning rate of every tensor that has one, as a multiple of the adapter's."""
    found: dict[str, Expr] = {}
    trained = {clause.node.name.text for clause in clauses.of(n.Param)}

    def give(name: n.Ident, value: Expr) -> None:
        if name.text not in trained:
            advice = did_you_mean(name.text, trained)
            message = f"`{name.text}` is not a parameter of this method"
            raise Fault("M317", message, name, help=advice)
        if name.text in found:
            raise Fault("M301", f"the rate of `{name.text}` is said twice", name)
        found[name.text] = value

    def lower(clause: Placed[n.Rate]) -> None:
        expr = clause.node.value
        value = lower_expression(expr, clause.source, scope, at_start=True)
        if value.type.dims or tensors_read(value):
            message = (
                "a learning rate is so many times the adapter's, a number that no weight changes"
            )
            raise Fault("T209", message, expr)
        every(lambda name: give(name, value), clause.node.names)

    report.each(clauses.of(n.Rate), lower)
    return found

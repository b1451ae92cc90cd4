"""Expressions: from the syntax tree to dimensions, and to typed nodes by the table of builtins."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from peftlang.diagnostics import Source, Span, did_you_mean
from peftlang.ir.builtins import BUILTINS, Signature
from peftlang.ir.dims import MAX_COEFFICIENT, Dim, TooComplex
from peftlang.ir.expr import Apply, Expr, Number
from peftlang.ir.positions import NUMBERS_OF_SITES, SITE_DIMS
from peftlang.ir.types import Level, Type, TypeFact
from peftlang.lower.arguments import Callee, bind
from peftlang.lower.constants import CALLABLE, LARGEST
from peftlang.lower.report import Fault, Gathering, Place, every
from peftlang.lower.scope import Scope
from peftlang.lower.walk import fold, offsets, operands
from peftlang.syntax import nodes as n

MAX_RANK = 8
"""Most named dimensions of one value; more are a mistake, and einsum has 26 letters."""

OF_ATTENTION = frozenset({"attend", "scores", "mix", "prefix_mass", "project_k", "project_v"})
"""Builtins that look at the attention product of their site."""

UNSIZED = frozenset({"keys", "tokens", "batch"})
"""Dimensions that differ from call to call, so that no tensor of a method can have them."""

Resolve = Callable[[n.Name, Source], Expr]


_OPERATIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "+": Dim.__add__,
    "-": Dim.__sub__,
    "*": Dim.__mul__,
    "/": Dim.__truediv__,
}


def read_dim(expr: n.Expr, scope: Scope, *, sized: bool = False) -> Dim:
    """The dimension that an expression is.

    Args:
        expr: What is written.
        scope: What names stand for.
        sized: Whether sizes that differ from call to call are refused.

    Raises:
        Fault: T203, T205, T211, T212, T213: it is none.
    """
    try:
        return fold(expr, lambda node, below: _dim(node, below, scope, sized))
    except TooComplex as error:
        raise Fault("T213", "this dimension is too complex", expr) from error
    except ZeroDivisionError as error:
        raise Fault("T213", "this divides by zero", expr) from error


def read_shape(dims: Iterable[n.Expr], scope: Scope) -> tuple[Dim, ...]:
    """The shape of a tensor, whose sizes are the same in every call.

    Raises:
        Faults: one of them is no dimension, or T205, less than 1.
    """

    def read(expr: n.Expr) -> Dim:
        dim = read_dim(expr, scope, sized=True)
        if dim.constant is not None and dim.constant < 1:
            raise Fault("T205", f"a size is at least 1, and this is {dim}", expr)
        return dim

    return tuple(every(read, dims))


def _dim(node: n.Expr, below: list[Dim], scope: Scope, sized: bool) -> Dim:
    match node:
        case n.Number():
            if isinstance(node.value, float):
                raise Fault("T205", f"a size is a whole number, and this is {node.text}", node)
            if node.value > MAX_COEFFICIENT:
                raise Fault("T212", "this number is too large for a size", node)
            return Dim.of(node.value)
        case n.Name():
            return _named(node, scope, sized)
        case n.Unary():
            return -below[0]
        case n.Binary(op="**"):
            return _power(node, *below)
        case n.Binary() if node.op in _OPERATIONS:
            return _OPERATIONS[node.op](*below)
    raise Fault("T211", "a shape is made of whole numbers, dimensions and `+ - * /`", node)


def _named(node: n.Name, scope: Scope, sized: bool) -> Dim:
    name, unsized = node.text, UNSIZED | scope.sequences
    if name in scope.sizes and not (sized and name in unsized):
        return scope.sizes[name]
    refused = unsized | NUMBERS_OF_SITES if sized else frozenset()
    if name in SITE_DIMS - refused:
        return Dim.of(name)
    known = sorted({*scope.sizes, *SITE_DIMS} - refused)
    message, what = f"`{name}` is not a dimension", scope.declared.variable(name)
    if name in unsized:
        message = f"`{name}` differs from call to call, so no tensor can have its size"
    elif name in NUMBERS_OF_SITES:
        message += f"; it is which of the `{name}s` a site is at, counted from 0"
    elif what is not None:
        message += f"; it is {what}"
    raise Fault("T203", message, node, help=did_you_mean(name, known))


def _power(node: n.Binary, base: Dim, exponent: Dim) -> Dim:
    if exponent.constant is None or not 0 <= exponent.constant <= 8:
        raise Fault("T205", "the power of a dimension is a whole number from 0 to 8", node.right)
    return base**exponent.constant


def in_brackets(dims: Iterable[Dim]) -> str:
    """Dimensions as they are written: ``[r, d_x]``."""
    return f"[{', '.join(map(str, dims))}]"


def lower_expression(
    root: n.Expr, source: Source, scope: Scope, *, at_start: bool = False, literal: bool = False
) -> Expr:
    """The typed expression.

    Args:
        root: What is written.
        source: The text that it is in.
        scope: What names stand for.
        at_start: Whether it is computed before the model runs.
        literal: Whether it may be a text, or true or false.

    Raises:
        Faults: N102, N103, N110, N111, S403, T2xx: every part that is wrong by itself.
    """
    lowering = _Lowering(source, scope, scope.at_start if at_start else scope.value)
    found = fold(root, lowering.node)
    lowering.gathering.check()
    assert found is not None
    if not literal:
        _check_value(found, root, texts=False)
    return found


class _Lowering:
    def __init__(self, source: Source, scope: Scope, resolve: Resolve) -> None:
        self._source, self._scope, self._resolve = source, scope, resolve
        self.gathering = Gathering()

    def node(self, node: n.Expr, below: list[Expr | None]) -> Expr | None:
        """A node whose operands are lowered; None after a fault in it or below."""
        values = [value for value in below if value is not None]
        if len(values) == len(below):
            with self.gathering:
                return self._lower(node, values)
        return None

    def _lower(  # noqa: PLR0911 -- one case for each kind of node
        self, node: n.Expr, below: Sequence[Expr]
    ) -> Expr:
        match node:
            case n.Name():
                return self._resolve(node, self._source)
            case n.Number() | n.String() | n.Boolean():
                return self._literal(node)
            case n.Unary():
                if isinstance(below[0], Number) and not isinstance(below[0].value, str):
                    return self._kept(replace(below[0], value=-below[0].value), node)
                return self._apply(node, "neg", below, operands(node))
            case n.Binary():
                return self._binary(node, below)
            case n.Call():
                return self._call(node, below)
            case n.Index() if len(node.indices) == 1:
                return self._apply(node, "index", below, operands(node))
            case n.Index():
                advice = "index the result again: `x[i][j]`"
                raise Fault("T209", "one index is wanted, and here are several", node, help=advice)
        message = "this is a condition, and a value is wanted here"
        raise Fault("T211", message, node, help="conditions stand after `where` and `ensure`")

    def _kept(self, expr: Expr, node: n.Node) -> Expr:
        return self._scope.keep(expr, Place(self._source, node.span))

    def _literal(self, node: n.Number | n.String | n.Boolean) -> Expr:
        type_ = Type(kind="bool") if isinstance(node, n.Boolean) else Type()
        if isinstance(node, n.Number):
            if isinstance(node.value, int) and abs(node.value) > LARGEST:
                raise Fault("T212", f"whole numbers go up to {LARGEST}", node)
            if node.value == float("inf"):
                raise Fault("T212", "this has no finite value", node)
            type_ = Type(kind="int" if isinstance(node.value, int) else "float")
        return self._kept(Number(node.value, type_, offsets(node)), node)

    def _binary(self, node: n.Binary, below: Sequence[Expr]) -> Expr:
        if node.op == "/" and isinstance(below[1], Number) and below[1].value == 0:
            raise Fault("T212", "this divides by zero", node.right)
        return self._apply(node, node.op, below, operands(node), at=node.op_span)

    def _call(self, node: n.Call, below: Sequence[Expr]) -> Expr:
        name, scope = node.function.text, self._scope
        is_hyper = name in scope.declared.functions
        if name in OF_ATTENTION and "k" not in scope.site.values and not is_hyper:
            message = f"`{name}` is a function of `attn.core` alone"
            raise Fault("S403", message, node.function)
        entry = BUILTINS["identity"] if is_hyper else CALLABLE.get(name)
        if entry is None:
            raise self._unknown_function(node.function)
        usage = f"it is called as `{f'{name}(x)' if is_hyper else entry.signature}`"
        callee = Callee(name, usage, entry.arity, entry.keywords, over=entry.over)
        bound = bind(node.function, node.arguments, callee)
        lowered = dict(zip(map(id, operands(node)), below, strict=True))
        keywords = {key: lowered[id(value)] for key, value in bound.keywords.items()}
        for key, value in keywords.items():
            if value.type.dims or value.type.level is not Level.CONST:
                message = f"`{key}` is a number, and this is {value.type}"
                raise Fault("T209", message, bound.keywords[key])
        return self._apply(
            node,
            name,
            [lowered[id(value)] for value in bound.operands],
            bound.operands,
            keywords=tuple(keywords.items()),
            over=tuple(read_dim(over.dim, scope) for over in bound.over),
            is_hyper=is_hyper,
        )

    def _unknown_function(self, function: n.Ident) -> Fault:
        name, declared = function.text, self._scope.declared
        message = f"there is no function `{name}`"
        advice = did_you_mean(name, {*CALLABLE, *declared.functions})
        what = declared.variable(name)
        if what is not None:
            message = f"`{name}` is {what}, not a function"
            advice = f"to multiply, write `{name} * …` or `{name} @ …`"
        return Fault("N103", message, function, help=advice)

    def _apply(
        self,
        node: n.Expr,
        op: str,
        args: Sequence[Expr],
        written: Sequence[n.Expr],
        *,
        keywords: tuple[tuple[str, Expr], ...] = (),
        over: tuple[Dim, ...] = (),
        is_hyper: bool = False,
        at: Span | None = None,
    ) -> Expr:
        """A builtin, or a hyper-parameter that is a function, applied: typed by the table."""
        entry = BUILTINS["identity" if is_hyper else op]
        for value, where in zip(args, written, strict=True):
            _check_value(value, where, texts=entry.texts)
        try:
            type_ = entry.rule(Signature(tuple(args), dict(keywords), over))
            if len(type_.dims) > MAX_RANK:
                raise TypeFact("T213", f"{type_} has more than {MAX_RANK} dimensions")
        except TypeFact as fact:
            raise self._ill_typed(fact, node, args, written, at) from fact
        except TooComplex as error:
            raise Fault("T213", str(error), at or node) from error
        except ZeroDivisionError as error:
            raise Fault("T212", "a dimension is divided by zero", at or node) from error
        span = offsets(node)
        return self._kept(Apply(op, tuple(args), type_, keywords, over, is_hyper, span), node)

    def _ill_typed(
        self,
        fact: TypeFact,
        node: n.Expr,
        args: Sequence[Expr],
        written: Sequence[n.Expr],
        at: Span | None,
    ) -> Fault:
        """A fact of a type rule, with its place and the types of the operands."""
        labels = [
            (Place(self._source, where.span), f"this is {value.type}")
            for value, where in zip(args, written, strict=True)
            if value.type.dims
        ]
        arguments = node.arguments if isinstance(node, n.Call) else ()
        over = next((a.span for a in arguments if isinstance(a, n.Over)), None)
        if at is None and fact.code == "T207" and over is not None:
            at = over
        elif at is None and fact.argument is not None and fact.argument < len(args):
            at = written[fact.argument].span
            labels = [label for label in labels if label[0].span != at]
        shown = labels if len(labels) <= 3 else []
        return Fault(fact.code, fact.message, at or node, help=fact.help, labels=shown)


def _check_value(value: Expr, where: n.Expr, *, texts: bool) -> None:
    """Texts are values where they are taken; what is true or false is none."""
    if not isinstance(value, Number) or not isinstance(value.value, str | bool):
        return
    is_text = isinstance(value.value, str)
    if not (is_text and texts):
        what = "a text" if is_text else "true or false"
        raise Fault("T211", f"this is {what}, and a value is wanted here", where)

"""Contracts: ``ensure`` clauses, typed; deciding them is not done here."""

from collections.abc import Iterable, Iterator

from peftlang.diagnostics import did_you_mean
from peftlang.ir.expr import DimValue, Expr
from peftlang.ir.method import Contract
from peftlang.ir.types import Type
from peftlang.lower.arguments import Callee, bind, callee_of
from peftlang.lower.expressions import lower_expression, read_dim
from peftlang.lower.load import Definition
from peftlang.lower.report import Fault, Placed, every
from peftlang.lower.scope import Scope
from peftlang.lower.walk import offsets, walk
from peftlang.syntax import nodes as n

PLAIN = ("identity_at_init", "mergeable", "causal", "token_local")
OF_MATRIX = ("orthogonal", "symmetric")
FORMS = (
    *PLAIN,
    "trainable == expr",
    "rank(expr) <= expr",
    *(f"{name}(expr)" for name in OF_MATRIX),
    "equivalent(method(args))",
)
_WORDS = (*PLAIN, *OF_MATRIX, "trainable", "rank", "equivalent")


def lower_contracts(clause: Placed[n.Ensure], scope: Scope) -> list[Contract]:
    """The properties of a clause.

    Raises:
        Faults: M308, no property; N104, N110, N111, T209 and what the expressions get wrong.
    """
    return every(lambda expr: _contract(clause.beside(expr), scope), clause.node.properties)


def _contract(placed: Placed[n.Expr], scope: Scope) -> Contract:
    expr, text, span = placed.node, placed.text, offsets(placed.node)
    match expr:
        case n.Name() if expr.text in PLAIN:
            return Contract(property=expr.text, text=text, span=span)
        case n.Call() if expr.function.text in OF_MATRIX:
            subject = _subject(placed.beside(expr), scope)
            return Contract(property=expr.function.text, subject=subject, text=text, span=span)
        case n.Compare():
            return _comparison(placed.beside(expr), scope)
        case n.Call() if expr.function.text == "equivalent":
            return _equivalent(placed.beside(expr), scope)
    raise _unknown(placed)


def _unknown(placed: Placed[n.Expr]) -> Fault:
    expr = placed.node
    name = expr.function if isinstance(expr, n.Call) else expr
    word = placed.beside(name).text
    if word in _WORDS:
        form = next(form for form in FORMS if form.startswith(word))
        return Fault("M308", f"`{word}` is not written so", name, help=f"write `{form}`")
    there_are = "there are " + ", ".join(f"`{form}`" for form in FORMS)
    advice = did_you_mean(word, _WORDS) or there_are
    return Fault("M308", f"`{word}` is not a property", name, help=advice)


def _comparison(placed: Placed[n.Compare], scope: Scope) -> Contract:
    """``trainable == e``, or ``rank(M) <= e``."""
    node, left = placed.node, placed.node.left
    name, subject = "trainable", None
    if isinstance(left, n.Call) and left.function.text == "rank":
        name, subject = "rank", _subject(placed.beside(left), scope)
    elif not (isinstance(left, n.Name) and left.text == "trainable"):
        raise _unknown(placed.beside(left))
    if node.op == "!=":
        raise Fault("M308", "a property cannot be an inequality of this kind", node.op_span)
    bound = read_dim(node.right, scope, sized=True)
    return Contract(
        property=name,
        subject=subject,
        relation=node.op,
        bound=DimValue(bound, Type(kind="int"), offsets(node.right)),
        text=placed.text,
        span=offsets(node),
    )


def _subject(call: Placed[n.Call], scope: Scope) -> Expr:
    """The matrix that a property speaks of."""
    name = call.node.function
    usage = next(f"it is written `{form}`" for form in FORMS if form.startswith(name.text))
    callee = Callee(name.text, usage, (1, 1))
    (only,) = bind(name, call.node.arguments, callee).operands
    value = lower_expression(only, call.source, scope)
    square = name.text == "symmetric"
    if len(value.type.dims) < 2 or (square and value.type.dims[-1] != value.type.dims[-2]):
        what = "a square matrix" if square else "a matrix"
        message = f"`{name.text}` speaks of {what}, and this is {value.type}"
        raise Fault("T209", message, only)
    return value


def _equivalent(placed: Placed[n.Call], scope: Scope) -> Contract:
    own = scope.declared.use.method
    other = _first_operand(placed.node)
    if other is None:
        example = "such as `equivalent(prefix(l = l))`"
        raise Fault("M308", "`equivalent` speaks of one method", placed.node, help=example)
    name = other.function if isinstance(other, n.Call) else other
    definition = own.unit.names.get(name.text)
    if definition is None or not definition.is_method:
        methods = [key for key, known in own.unit.names.items() if known.is_method]
        advice = did_you_mean(name.text, methods)
        raise Fault("N104", f"there is no method `{name.text}`", name, help=advice)
    given = other.arguments if isinstance(other, n.Call) else ()
    bound = bind(name, given, callee_of(definition))
    values = every(
        lambda expr: lower_expression(expr, placed.source, scope, literal=True),
        bound.keywords.values(),
    )
    return Contract(
        property="equivalent",
        method=name.text,
        arguments=tuple(zip(bound.keywords, values, strict=True)),
        tensors=tuple(
            every(lambda pair: _same_tensor(pair, definition, own), placed.node.arguments[1:])
        ),
        text=placed.text,
        span=offsets(placed.node),
    )


def _first_operand(call: n.Call) -> n.Call | n.Name | None:
    first = call.arguments[0] if call.arguments else None
    if isinstance(first, n.Argument) and first.name is None:
        return first.value if isinstance(first.value, n.Call | n.Name) else None
    return None


def _same_tensor(
    argument: n.Argument | n.Over, other: Definition, own: Definition
) -> tuple[str, str]:
    """``A = P_k``: the other method's tensor ``A`` is this one's ``P_k``."""
    if not (
        isinstance(argument, n.Argument) and argument.name and isinstance(argument.value, n.Name)
    ):
        form = "write `their_tensor = my_tensor`"
        raise Fault("M308", "a correspondence is of two tensors", argument, help=form)
    for node, definition in ((argument.name, other), (argument.value, own)):
        known = [c.name.text for c in definition.node.clauses if isinstance(c, n.Param | n.Buffer)]
        if node.text not in known:
            advice = did_you_mean(node.text, known)
            raise Fault("M308", f"there is no tensor `{node.text}`", node, help=advice)
    return argument.name.text, argument.value.text


def equivalents(
    clauses: Iterable[n.Node], method: Definition
) -> Iterator[tuple[n.Ident | n.Name, Definition]]:
    """The methods that contracts of a method name, and where."""
    for node in walk(*(clause for clause in clauses if isinstance(clause, n.Ensure))):
        if isinstance(node, n.Call) and node.function.text == "equivalent":
            other = _first_operand(node)
            name = other.function if isinstance(other, n.Call) else other
            found = method.unit.names.get(name.text) if name else None
            if name is not None and found is not None and found.is_method:
                yield name, found

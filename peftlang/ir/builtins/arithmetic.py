"""Operators and elementwise functions."""

from collections.abc import Callable
from typing import Any

from peftlang.ir.builtins.layout import elementwise, met
from peftlang.ir.builtins.numbers import on_number, power, quotient
from peftlang.ir.builtins.table import Builtin, Evaluation, Sign, Signature
from peftlang.ir.dims import Dim, product
from peftlang.ir.expr import Apply
from peftlang.ir.types import Level, Type, TypeFact, align, contract


def _aligned(call: Signature, advice: str | None = None) -> Type:
    """One operand's dimensions are among the other's, so that nothing grows unseen."""
    left, right = call.types
    result = align(left, right)
    if len(result.dims) > max(len(left.dims), len(right.dims)):
        apart = not set(left.dims) & set(right.dims)
        raise TypeFact(
            "T201",
            f"{left} and {right} do not line up: each has a dimension that the other has not",
            help=advice if apart else None,
        )
    return result


def _product(call: Signature) -> Type:
    return _aligned(call, "`outer(a, b)` makes all products")


def _as_float(call: Signature) -> Type:
    found = _aligned(call)
    return found if found.kind == "complex" else Type(found.dims, found.level, "float")


def _same(call: Signature) -> Type:
    first = call.inexact()
    return first if first.kind == "complex" else Type(first.dims, first.level, "float")


def _contract_rule(call: Signature) -> Type:
    if all(type_.dims for type_ in call.types):
        call.inexact(0)
        call.inexact(1)
    return contract(call.types[0], call.types[1])[0]


def _contract(call: Evaluation) -> Any:
    left, right = _alike(call)
    a, b = call.types
    _, batched = contract(a, b)
    if a.level is Level.CONST and len(b.dims) == 1 and b.level is not Level.CONST:
        return _apply_matrix(call, left, right, a)
    plain = batched == 0 and len(a.dims) <= 2 and len(b.dims) <= 2
    if plain and a.level is b.level is Level.CONST:
        return call.t.matmul(left, right)
    if plain and len(a.dims) == 1 and b.level is Level.CONST:
        return call.t.matmul(left, right)
    left, right = met(left, right, a, b)
    return call.t.einsum(_equation(a, b, batched), left, right)


def _alike(call: Evaluation) -> tuple[Any, Any]:
    """Both operands complex where one is, as products of torch want them."""
    left, right = call.args
    a, b = (type_.kind == "complex" for type_ in call.types)
    if a and not b:
        right = call.precise(right) * complex(1)
    if b and not a:
        left = call.precise(left) * complex(1)
    return left, right


def _apply_matrix(call: Evaluation, matrix: Any, vector: Any, a: Type) -> Any:
    if len(a.dims) == 1:
        return call.t.matmul(vector, matrix)
    if len(a.dims) == 2:
        return call.t.nn.functional.linear(vector, matrix)
    rows = [call.size(dim) for dim in a.dims[:-1]]
    return call.t.nn.functional.linear(vector, matrix.flatten(0, -2)).unflatten(-1, rows)


def _equation(a: Type, b: Type, batched: int) -> str:
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = [next(letters) for _ in a.dims]
    right = left[:batched] + [left[-1]] + [next(letters) for _ in b.dims[batched + 1 :]]
    out = left[:-1] + right[batched + 1 :]
    dots = ["..." if t.level is not Level.CONST else "" for t in (a, b)]
    return f"{dots[0]}{''.join(left)},{dots[1]}{''.join(right)}->{max(dots, key=len)}{''.join(out)}"


def _contract_cost(call: Apply) -> Dim:
    summed = call.args[0].type.dims[-1]
    return 2 * product((*call.type.dims, summed))


def _function(
    name: str,
    doc: str,
    compute: Callable[[Any, Any], Any],
    *,
    at_zero: bool,
    activation: bool = True,
    linear: bool = False,
    transparent: bool = False,
    flat_at_zero: bool = False,
    needs: Sign = "",
    sign: Sign = "",
) -> Builtin:
    """A function of each element by itself; ``at_zero``, whether it is 0 at 0."""
    return Builtin(
        name,
        f"{name}(x)",
        doc,
        (1, 1),
        _same,
        lambda c: on_number(name, c.args[0]) if _is_number(c.args[0]) else compute(c.t, c.args[0]),
        linear=(0,) if linear else (),
        zero="all" if at_zero else "never",
        activation=activation,
        transparent=transparent,
        flat_at_zero=flat_at_zero,
        needs=((0, needs),) if needs else (),
        sign=sign,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


ARITHMETIC = (
    Builtin("+", "a + b", "Elementwise sum; dimensions align by name.", (2, 2), _aligned,
            lambda c: _sum(*elementwise(c)), linear=(0, 1), jointly=True, zero="all"),
    Builtin("-", "a - b", "Elementwise difference.", (2, 2), _aligned,
            lambda c: _difference(*elementwise(c)), linear=(0, 1), jointly=True, zero="all"),
    Builtin("*", "a * b", "Elementwise product.", (2, 2), _product,
            lambda c: _times(*elementwise(c)), linear=(0, 1), zero="any"),
    Builtin("/", "a / b", "Elementwise quotient.", (2, 2), _as_float,
            lambda c: _over(*elementwise(c)), linear=(0,), zero="any", needs=((1, "nonzero"),)),
    Builtin("**", "a ** b", "Elementwise power.", (2, 2), _aligned,
            lambda c: _power(*elementwise(c)), needs=((0, "positive"),)),
    Builtin("neg", "-a", "Negation.", (1, 1), lambda c: c.types[0], lambda c: -c.args[0],
            linear=(0,), zero="all"),
    Builtin("@", "M @ v", "Contraction of the last dimension on the left with the one of that "
            "name on the right; leading dimensions that both name are batched.", (2, 2),
            _contract_rule, _contract, linear=(0, 1), zero="any", cost=_contract_cost),
    _function("relu", "max(x, 0).", lambda t, x: t.relu(x), at_zero=True, flat_at_zero=True,
              sign="not negative"),
    _function("gelu", "Gaussian error linear unit, exact.",
              lambda t, x: t.nn.functional.gelu(x), at_zero=True),
    _function("gelu_tanh", "Gaussian error linear unit, tanh approximation.",
              lambda t, x: t.nn.functional.gelu(x, approximate="tanh"), at_zero=True),
    _function("silu", "x * sigmoid(x), also called swish.",
              lambda t, x: t.nn.functional.silu(x), at_zero=True),
    _function("tanh", "Hyperbolic tangent.", lambda t, x: t.tanh(x), at_zero=True),
    _function("sigmoid", "1 / (1 + exp(-x)).", lambda t, x: t.sigmoid(x), at_zero=False,
              sign="positive"),
    _function("softplus", "log(1 + exp(x)).",
              lambda t, x: t.nn.functional.softplus(x), at_zero=False, sign="positive"),
    _function("leaky_relu", "max(x, 0.01 x).",
              lambda t, x: t.nn.functional.leaky_relu(x), at_zero=True),
    _function("identity", "x itself.", lambda t, x: x, at_zero=True, linear=True,
              transparent=True),
    _function("exp", "Exponential.", lambda t, x: t.exp(x), at_zero=False, sign="positive"),
    _function("log", "Natural logarithm.", lambda t, x: t.log(x), at_zero=False, needs="positive"),
    _function("sqrt", "Square root.", lambda t, x: t.sqrt(x), at_zero=True,
              activation=False, needs="not negative"),
    _function("abs", "Absolute value.", lambda t, x: t.abs(x), at_zero=True, flat_at_zero=True),
    _function("sin", "Sine.", lambda t, x: t.sin(x), at_zero=True),
    _function("cos", "Cosine.", lambda t, x: t.cos(x), at_zero=False),
)  # fmt: skip


def _sum(a: Any, b: Any) -> Any:
    return a + b


def _difference(a: Any, b: Any) -> Any:
    return a - b


def _times(a: Any, b: Any) -> Any:
    return a * b


def _over(a: Any, b: Any) -> Any:
    return quotient(a, b) if _is_number(a) and _is_number(b) else a / b


def _power(a: Any, b: Any) -> Any:
    return power(a, b) if _is_number(a) and _is_number(b) else a**b

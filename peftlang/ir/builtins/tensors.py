"""Reductions, norms, and changes of shape."""

from collections.abc import Callable
from typing import Any

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins.layout import axes, met
from peftlang.ir.builtins.table import Builtin, Evaluation, Signature
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply
from peftlang.ir.types import Level, Type, TypeFact


def _check_over(call: Signature) -> Type:
    have = call.types[0]
    for dim in call.over:
        if have.dims.count(dim) != 1:
            how = "occurs more than once in" if dim in have.dims else "is not a dimension of"
            raise TypeFact("T207", f"`{dim}` {how} {have}", 0, help=f"name one of {have}")
    return have


def _reduced(call: Signature) -> Type:
    have = _check_over(call)
    call.inexact()
    kept = tuple(d for d in have.dims if d not in call.over) if call.over else ()
    return Type(kept, have.level)


BATCH = Dim.of("batch")

LEAST = -3e4
"""Less than any score, and a number in half precision too."""


def averages_batch(call: Apply) -> bool:
    """Whether a call is a `mean` over the rows and tokens of the batch, which no type names."""
    return call.op == "mean" and call.over == (BATCH,)


def _mean_rule(call: Signature) -> Type:
    have = call.types[0]
    if call.over != (BATCH,):
        return _reduced(call)
    call.inexact()
    if have.level is Level.CONST:
        raise TypeFact(
            "T207", "this is the same for every input, so there is nothing to average", 0
        )
    return Type(have.dims)


def _mean(call: Evaluation) -> Any:
    if call.over != (BATCH,):
        return _mean_of_reals(call)
    return call.site.average(call.args[0], call.types[0])


def _kept(call: Signature) -> Type:
    have = _check_over(call)
    call.tensor()
    if not call.over:
        raise TypeFact(
            "T207",
            "which dimension it works over is not said",
            help=f"add `over` and one of {have}",
        )
    return Type(have.dims, have.level)


def _softmax_rule(call: Signature) -> Type:
    if len(call.over) > 1:
        raise TypeFact("T207", "softmax works over one dimension")
    return _kept(call)


def _reduce(call: Evaluation, compute: Callable[[Any, list[int]], Any]) -> Any:
    """Torch reads an empty list of dimensions as all, those of batch and sequence included."""
    dims = axes(call.types[0], call.over)
    return compute(call.args[0], dims) if dims else call.args[0]


def _reals(call: Evaluation) -> Any:
    """Which elements of the operand are of tokens that are no padding; None where all are.

    That is asked where a call works over the length of a tapped sequence.
    """
    have, found = call.types[0], None
    for dim in call.over or have.dims:
        real = call.real(dim)
        if real is None:
            continue
        place = have.dims.index(dim)
        for _ in range(place + (have.level is Level.TOKEN)):
            real = real.unsqueeze(1)
        for _ in have.dims[place + 1 :]:
            real = real.unsqueeze(-1)
        found = real if found is None else found & real
    return found


def _reduce_reals(call: Evaluation, fill: float, compute: Callable[[Any, list[int]], Any]) -> Any:
    """A reduction in which ``fill`` stands for the elements of padding."""
    real, dims = _reals(call), axes(call.types[0], call.over)
    if real is None:
        return _reduce(call, compute)
    x = call.args[0]
    return compute(call.t.where(real, x, call.t.full_like(x, fill)), dims)


def _mean_of_reals(call: Evaluation) -> Any:
    real = _reals(call)
    if real is None:
        return _reduce(call, lambda x, dims: x.mean(dims))
    dims = axes(call.types[0], call.over)
    count = (call.t.ones_like(call.args[0]) * real).sum(dims).clamp(min=1)
    return _reduce_reals(call, 0.0, lambda x, dims: x.sum(dims)) / count


def _norm(call: Evaluation) -> Any:
    """The same rounding whatever the strides: a weight kept transposed has the norm of its copy."""
    norm = call.t.linalg.vector_norm
    if not axes(call.types[0], call.over):
        return abs(call.args[0]) if isinstance(call.args[0], int | float) else call.args[0].abs()
    return _reduce_reals(call, 0.0, lambda x, dims: norm(x.contiguous(), dim=dims))


def _standardise(call: Evaluation, *, centre: bool) -> Any:
    x, dims = call.args[0], axes(call.types[0], call.over)
    eps = call.keywords.get("eps", 1e-5)
    if centre:
        x = x - x.mean(dims, keepdim=True)
    return x * call.t.rsqrt((x * x).mean(dims, keepdim=True) + eps)


def _transpose_rule(call: Signature) -> Type:
    have = call.types[0]
    if len(have.dims) < 2:
        raise TypeFact("T209", f"a matrix is wanted, and this is {have}", 0)
    return have.with_dims(*have.dims[:-2], have.dims[-1], have.dims[-2])


def _outer_rule(call: Signature) -> Type:
    a, b = call.tensor(0), call.tensor(1)
    for index, have in enumerate((a, b)):
        if not have.dims:
            raise TypeFact(
                "T209",
                "`outer` is of two tensors, and this has no dimensions",
                index,
                help="`*` scales",
            )
    return Type(a.dims + b.dims, max(a.level, b.level))


def outer_product(call: Evaluation) -> Any:
    """All products of an element of each of two operands, of any levels."""
    (a, b), (left, right) = call.args, call.types
    for _ in right.dims:
        a = a.unsqueeze(-1)
    if right.level is not Level.CONST:
        for _ in left.dims:
            b = b.unsqueeze(-len(right.dims) - 1)
    a, b = met(a, b, left, right)
    return a * b


def _reshape_rule(call: Signature) -> Type:
    have = call.tensor()
    wanted = tuple(call.dim(i) for i in range(1, len(call.args)))
    result = have.with_dims(*wanted)
    if have.size != result.size:
        raise TypeFact(
            "T210",
            f"{have} has {have.size} elements and {result} has {result.size}",
            help="the two products must be equal",
        )
    return result


def _reshape(call: Evaluation) -> Any:
    value, have = call.args[0], call.types[0]
    if not have.dims:
        return value.unsqueeze(-1).unflatten(-1, [call.size(d) for d in call.result.dims])
    if len(have.dims) > 1:
        value = value.flatten(-len(have.dims), -1)
    if len(call.result.dims) == 1:
        return value
    return value.unflatten(-1, [call.size(d) for d in call.result.dims])


def _copies_rule(call: Signature) -> Type:
    have = call.tensor()
    if have.level is not Level.CONST:
        raise TypeFact("T209", "this is not the same for every input, as it has to be here", 0)
    return have.with_dims(call.dim(1), *have.dims)


def _copies(call: Evaluation) -> Any:
    value = call.args[0]
    return value.expand(call.size(call.result.dims[0]), *(-1 for _ in call.types[0].dims))


def _concat_rule(call: Signature) -> Type:
    first, total = call.types[0], Dim.of(0)
    level = max(t.level for t in call.types)
    for index, other in enumerate(call.types):
        call.inexact(index)
        if not other.dims or other.dims[1:] != first.dims[1:]:
            raise TypeFact(
                "T209", f"{other} cannot follow {first}: only the first dimension may differ", index
            )
        total = total + other.dims[0]
    return Type((total, *first.dims[1:]), level)


def _concat(call: Evaluation) -> Any:
    axis = -len(call.result.dims)
    fullest = (
        value
        for value, have in zip(call.args, call.types, strict=True)
        if have.level is call.result.level and have.level is not Level.CONST
    )
    batched = next(fullest, None)
    if batched is None:
        return call.t.cat(list(call.args), dim=axis)
    parts = []
    for value, have in zip(call.args, call.types, strict=True):
        if have.level is not call.result.level:
            value = value.unsqueeze(1) if have.level is Level.EXAMPLE else value
            value = _spread(call, value, batched, axis)
        parts.append(value)
    return call.t.cat(parts, dim=axis)


def _spread(call: Evaluation, value: Any, like: Any, axis: int) -> Any:
    """Repeat a value over the implicit dimensions that ``like`` has and it lacks."""
    return value + call.t.zeros_like(like.narrow(axis, 0, 1))


def _index_rule(call: Signature) -> Type:
    have, at = call.types
    single = have.level is Level.EXAMPLE and at.level is Level.CONST and not at.dims
    if not have.dims or not (have.level is Level.CONST or single):
        what = "has no dimensions" if not have.dims else "is not the same for every input"
        raise TypeFact("T209", f"this {what}, so it cannot be indexed", 0)
    if at.kind != "int":
        raise TypeFact(
            "T209",
            f"{have} is indexed by whole numbers",
            help="declare it as `input name : index(n)`",
        )
    level = have.level if single else at.level
    return Type(at.dims + have.dims[1:], level, have.kind)


def _index(call: Evaluation) -> Any:
    table, at = call.args
    if call.types[0].level is Level.EXAMPLE:
        return table.select(-len(call.types[0].dims), int(at))
    if isinstance(at, int):
        _check_entry(call, at)
    if isinstance(at, int) or len(call.types[0].dims) != 2:
        return table[at]
    return call.t.nn.functional.embedding(at, table)


def _check_entry(call: Evaluation, at: int) -> None:
    dim = call.types[0].dims[0]
    if not -call.size(dim) <= at < call.size(dim):
        raise PeftError(
            f"this takes entry number {at} of `{dim}`, which is {call.size(dim)}",
            code="S408",
            help="entries are counted from 0, or from the end with a sign",
        )


TENSORS = (
    Builtin("sum", "sum(x, over d)", "Sum over the named dimensions, or over all.", (1, 1),
            _reduced, lambda c: _reduce_reals(c, 0.0, lambda x, dims: x.sum(dims)), linear=(0,),
            zero="all", over=True),
    Builtin("mean", "mean(x, over d)", "Mean over the named dimensions, or over all; `over batch`, "
            "in a penalty, over the tokens of all rows, padding left out.", (1, 1),
            _mean_rule, _mean, linear=(0,), zero="all", over=True),
    Builtin("max", "max(x, over d)", "Largest element over the named dimensions, or over all.",
            (1, 1), _reduced, lambda c: _reduce_reals(c, LEAST, lambda x, dims: x.amax(dims)),
            zero="all", over=True),
    Builtin("norm", "norm(x, over d)", "Euclidean norm over the named dimensions, or over all.",
            (1, 1), _reduced, _norm, zero="all", over=True, flat_at_zero=True),
    Builtin("softmax", "softmax(x, over d)", "Softmax over the named dimension.", (1, 1),
            _softmax_rule, lambda c: _reduce_reals(c, LEAST, lambda x, dims: c.t.softmax(
                x, dim=dims[0])), over=True, sign="positive"),
    Builtin("layer_norm", "layer_norm(x, over d, eps = 1e-5)", "Zero mean and unit variance "
            "over the named dimension, without gain or shift.", (1, 1), _kept,
            lambda c: _standardise(c, centre=True), over=True, keywords=("eps",)),
    Builtin("rms_norm", "rms_norm(x, over d, eps = 1e-5)", "Unit mean square over the named "
            "dimension, without gain.", (1, 1), _kept,
            lambda c: _standardise(c, centre=False), over=True, keywords=("eps",)),
    Builtin("transpose", "transpose(M)", "The last two dimensions exchanged.", (1, 1),
            _transpose_rule, lambda c: c.args[0].transpose(-1, -2), linear=(0,), zero="all",
            eye="eye",
            cost=lambda c: Dim.of(0), rearranges=True),
    Builtin("outer", "outer(a, b)", "All products of an element of each, dimensions in order.",
            (2, 2), _outer_rule, outer_product, linear=(0, 1), zero="any"),
    Builtin("reshape", "reshape(x, d, ...)", "The same elements, in order, under other "
            "dimensions.", (2, 9), _reshape_rule, _reshape, linear=(0,), zero="all",
            cost=lambda c: Dim.of(0), rearranges=True),
    Builtin("copies", "copies(x, n)", "`x`, n times, under a new first dimension.", (2, 2),
            _copies_rule, _copies, linear=(0,), zero="any", cost=lambda c: Dim.of(0),
            rearranges=True),
    Builtin("concat", "concat(a, b, ...)", "One after the other along the first dimension.",
            (2, 16), _concat_rule, _concat, linear=tuple(range(16)), jointly=True, zero="all",
            cost=lambda c: Dim.of(0), rearranges=True),
    Builtin("index", "x[i]", "The rows of `x` that `i` names.", (2, 2), _index_rule, _index,
            linear=(0,), zero="all", cost=lambda c: Dim.of(0), rearranges=True),
)  # fmt: skip

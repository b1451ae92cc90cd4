"""Functions along the sequence: what a token gets depends on other tokens of its row.

Padding is no part of a sequence. Where a function may look ahead is the site's own matter: in a
stack whose attention sees no later token neither do these, unless the spec says otherwise.
"""

from typing import Any

from peftlang.ir.builtins.table import Builtin, Evaluation, Signature
from peftlang.ir.dims import Dim, product
from peftlang.ir.expr import Apply, Number
from peftlang.ir.types import Level, Type, TypeFact


def _of_each_token(call: Signature, index: int, rank: tuple[int, ...]) -> Type:
    have = call.inexact(index)
    if have.level is not Level.TOKEN or len(have.dims) not in rank:
        what = "a vector" if rank == (1,) else "a value"
        raise TypeFact(
            "T209",
            f"{what} of each token is wanted, and this is {have}",
            index,
            help=_of_token_help(have),
        )
    return have


def _of_token_help(have: Type) -> str | None:
    return None if have.level is Level.TOKEN else "it does not differ from token to token"


def _kernel_rule(call: Signature, window: int) -> Type:
    """``x[c]`` with a kernel ``[c, *window]``, or ``x[i]`` with one ``[o, i, *window]``."""
    x, kernel = _of_each_token(call, 0, (1,)), call.inexact(1)
    shapes = "`[c, n]` or `[o, c, n]`" if window == 1 else "`[c, n, m]` or `[o, c, n, m]`"
    depth = len(kernel.dims) - window
    if kernel.level is not Level.CONST or depth not in (1, 2):
        raise TypeFact(
            "T209", f"a kernel is {shapes}, the same for every input, and this is {kernel}", 1
        )
    if kernel.dims[depth - 1] != x.dims[0]:
        raise TypeFact(
            "T201",
            f"the kernel {kernel} is for `{kernel.dims[depth - 1]}` features, and each "
            f"token has {x}",
            1,
            help=f"a kernel is {shapes}, with `{x.dims[0]}` for c",
        )
    return x.with_dims(kernel.dims[0])


def _kernel_cost(window: int) -> Any:
    """Each output feature sums over the window, and over all inputs unless it is depthwise."""
    return lambda call: 2 * product(call.args[1].type.dims)


def _conv(call: Evaluation) -> Any:
    """Zeros stand on either side; with an even window the extra place is on the right."""
    kernel = call.args[1]
    depthwise = len(call.types[1].dims) == 2
    x, size = _row_of_reals(call), call.size(call.types[1].dims[-1])
    before = size - 1 if _is_causal(call) else (size - 1) // 2
    x = call.t.nn.functional.pad(x.transpose(1, 2), (before, size - 1 - before))
    weight = kernel.unsqueeze(1) if depthwise else kernel
    groups = call.size(call.types[0].dims[0]) if depthwise else 1
    found = call.t.nn.functional.conv1d(x, weight, groups=groups)
    return call.site.sequence.as_given(found.transpose(1, 2))


def _conv2(call: Evaluation) -> Any:
    kernel, window = call.args[1], [call.size(d) for d in call.types[1].dims[-2:]]
    depthwise = len(call.types[1].dims) == 3
    before, rows, columns, after = call.site.sequence.grid()
    x = call.site.sequence.by_row(call.args[0])
    patches = x.narrow(1, before, rows * columns)
    image = patches.transpose(1, 2).unflatten(2, [rows, columns])
    sides = [side for size in reversed(window) for side in ((size - 1) // 2, size // 2)]
    image = call.t.nn.functional.pad(image, sides)
    weight = kernel.unsqueeze(1) if depthwise else kernel
    groups = call.size(call.types[0].dims[0]) if depthwise else 1
    found = call.t.nn.functional.conv2d(image, weight, groups=groups).flatten(2).transpose(1, 2)
    # Tokens off the grid are images of one patch: the kernel's middle is all that meets them.
    middle = weight[..., (window[0] - 1) // 2, (window[1] - 1) // 2]
    middle = middle.squeeze(1) if depthwise else middle.transpose(0, 1)
    off = [x.narrow(1, 0, before), x.narrow(1, before + rows * columns, after)]
    front, back = (own * middle if depthwise else own @ middle for own in off)
    return call.site.sequence.as_given(call.t.cat([front, found, back], dim=1))


def _is_causal(call: Evaluation) -> bool:
    chosen = call.keywords.get("causal")
    return call.site.sequence.causal() if chosen is None else bool(chosen)


def _row_of_reals(call: Evaluation, index: int = 0) -> Any:
    """An operand ``[batch, tokens, *dims]``, zero at padding."""
    value, real = call.site.sequence.by_row(call.args[index]), call.site.sequence.real()
    if real is None:
        return value
    for _ in call.types[index].dims:
        real = real.unsqueeze(-1)
    return call.t.where(real, value, call.t.zeros_like(value))


def _counts(call: Evaluation, like: Any) -> Any:
    """1 at real tokens, 0 at padding: ``[batch, tokens, 1, …]`` in the type of ``like``."""
    real = call.site.sequence.real()
    for _ in call.types[0].dims:
        like = like.select(-1, 0)
    ones = call.t.ones_like(like)
    ones = ones if real is None else ones * real
    for _ in call.types[0].dims:
        ones = ones.unsqueeze(-1)
    return ones


def _along(call: Evaluation, x: Any, counts: Any) -> Any:
    """The mean of ``x`` over the real tokens of the row, or over those up to each token."""
    if _is_causal(call):
        return (x * counts).cumsum(1) / counts.cumsum(1).clamp(min=1)
    return (x * counts).sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)


def _sequence_norm(call: Evaluation) -> Any:
    x = _row_of_reals(call)
    counts = _counts(call, x)
    mean = _along(call, x, counts)
    if _is_causal(call):
        variance = (_along(call, x * x, counts) - mean * mean).clamp(min=0)
    else:
        variance = _along(call, (x - mean) * (x - mean), counts)
    eps = call.keywords.get("eps", 1e-5)
    return call.site.sequence.as_given((x - mean) * call.t.rsqrt(variance + eps))


def _norm_rule(call: Signature) -> Type:
    return _of_each_token(call, 0, tuple(range(9)))


def _pool_rule(call: Signature) -> Type:
    have, causal = _norm_rule(call), call.keywords.get("causal")
    if causal is not None and not (isinstance(causal, Number) and causal.value is False):
        raise TypeFact("T209", "`pool` is over the whole sequence, so `causal` can only be `false`")
    return Type(have.dims, Level.EXAMPLE)


def _pool(call: Evaluation) -> Any:
    x = _row_of_reals(call)
    counts = _counts(call, x)
    return x.sum(1) / counts.sum(1).clamp(min=1)


def _attention_rule(call: Signature) -> Type:
    query, keys, values = (_of_each_token(call, index, (1, 2)) for index in range(3))
    if query.dims != keys.dims:
        raise TypeFact(
            "T209",
            f"the queries {query} and the keys {keys} differ",
            1,
            help="both are `[d]`, or `[n, d]` for n heads",
        )
    if query.dims[:-1] != values.dims[:-1]:
        raise TypeFact(
            "T209", f"the queries {query} and the values {values} are not of the same heads", 2
        )
    return values


def _self_attention(call: Evaluation) -> Any:
    """A padded token sees itself alone, so that no row of weights is empty."""
    t, one = call.t, len(call.types[0].dims) == 1
    q, k, v = (call.site.sequence.by_row(value) for value in call.args)
    q, k, v = ((x.unsqueeze(1) if one else x.transpose(1, 2)) for x in (q, k, v))
    marks = t.ones_like(q.select(1, 0).select(-1, 0).detach(), dtype=t.bool)
    place = marks.long().cumsum(1)
    here, there = place.unsqueeze(2), place.unsqueeze(1)
    real = call.site.sequence.real()
    seen = (real if real is not None else marks).unsqueeze(1).expand_as(here == there)
    if _is_causal(call):
        seen = seen & (there <= here)
    seen = (seen | (here == there)).unsqueeze(1)
    found = t.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return call.site.sequence.as_given(found.squeeze(1) if one else found.transpose(1, 2))


def _attention_cost(call: Apply) -> Dim:
    tokens = Dim.of("tokens")
    return 2 * tokens * (call.args[0].type.size + call.type.size)


SEQUENCE = (
    Builtin("conv", "conv(x, K, causal = site's)", "Convolution along the sequence, with zeros "
            "beyond its ends: of each feature by itself with `K[c, n]`, of all with `K[o, c, n]`; "
            "the last place of a causal window, else the middle one, is the token itself.",
            (2, 2), lambda c: _kernel_rule(c, 1), _conv, linear=(0, 1), zero="any",
            cost=_kernel_cost(1), keywords=("causal",), asks="places", reads="seen"),
    Builtin("conv2", "conv2(x, K)", "Convolution over an image's patches, with zeros around "
            "them, `K[c, n, m]` or `K[o, c, n, m]`; tokens that are no patches (class tokens, "
            "soft tokens) are images of one patch each.", (2, 2), lambda c: _kernel_rule(c, 2),
            _conv2, linear=(0, 1), zero="any", cost=_kernel_cost(2), asks="places", reads="all"),
    Builtin("sequence_norm", "sequence_norm(x, eps = 1e-5, causal = site's)", "Zero mean and unit "
            "variance of each feature over the tokens of its sequence, or over those so far.",
            (1, 1), _norm_rule, _sequence_norm, keywords=("eps", "causal"), asks="places",
            reads="seen"),
    Builtin("pool", "pool(x)", "The mean over the tokens of the sequence, one for each row. Where "
            "no token sees later ones it has to be said that this does: `causal = false`.",
            (1, 1), _pool_rule, _pool, linear=(0,), zero="all", keywords=("causal",),
            asks="places", reads="all"),
    Builtin("self_attention", "self_attention(q, k, v, causal = site's)", "Scaled dot-product "
            "attention among the tokens of the sequence, `[d]` or `[n, d]` for n heads.", (3, 3),
            _attention_rule, _self_attention, linear=(2,), zero="any", cost=_attention_cost,
            keywords=("causal",), asks="places", reads="seen"),
)  # fmt: skip
"""Tokens of other rows are never seen; what a row's tokens see of each other is `reads`."""

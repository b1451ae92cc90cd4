"""Factors of a matrix: singular vectors and values, QR, tensor-train cores, sub-blocks.

They are for initial values (`param B[d_h, r] ~ svd_u(W, r)`), where each decomposition of a weight
is computed once for all tensors of a site. Signs are fixed, so that the same weight gives the same
factors: the largest entry of each left vector is positive, and so is the diagonal of R.
"""

from math import prod
from typing import Any

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins.operands import shaped
from peftlang.ir.builtins.table import Builtin, Evaluation, Signature
from peftlang.ir.dims import Dim, UnboundDim, product
from peftlang.ir.expr import Apply, Number
from peftlang.ir.types import Type, TypeFact


def _factor(call: Signature, *axes: int | None) -> Type:
    """``[rows or r, r or columns]`` of a matrix: an axis of it, or None for ``r``."""
    have, count = shaped(call, 0, 2, "a matrix is"), call.dim(1)
    return have.with_dims(*(count if axis is None else have.dims[axis] for axis in axes))


def _once(call: Evaluation, what: str, compute: Any) -> Any:
    """A decomposition of the first operand on the CPU, made once where several factors want it."""
    value = call.args[0]
    key = (what, id(value))
    if key not in call.memo:
        # The operand is kept as well, so that no other can take its identity.
        call.memo[key] = (value, compute(call.t, call.precise(value).cpu()))
    return call.memo[key][1]


def _svd(t: Any, matrix: Any) -> tuple[Any, Any, Any]:
    u, s, v = t.linalg.svd(matrix, full_matrices=False)
    largest = u.gather(0, u.abs().argmax(0, keepdim=True))
    return u * largest.sgn(), s, v * largest.sgn().transpose(0, 1)


def _qr(t: Any, matrix: Any) -> tuple[Any, Any]:
    q, r = t.linalg.qr(matrix)
    signs = t.diagonal(r).sgn()
    signs = signs + (1 - signs.abs())
    return q * signs, r * signs.unsqueeze(-1)


def _leading(call: Evaluation, factor: Any, axis: int) -> Any:
    """The first ``r`` rows or columns of a factor, where the operand is; all if it has fewer.

    It has fewer at no site of a model, which `at_most` keeps it from.
    """
    count = min(map(call.size, (call.result.dims[axis], *call.types[0].dims)))
    return factor.narrow(axis, 0, count).to(call.args[0])


def _rank(call: Apply) -> tuple[int, tuple[Dim, ...]]:
    """A matrix has no more factors than rows, nor than columns."""
    return 1, call.args[0].type.dims


def _core_rule(call: Signature) -> Type:
    have, which = shaped(call, 0, 2, "a matrix is"), call.args[1]
    count = (len(call.args) - 3) // 2
    number = which.value if isinstance(which, Number) else None
    if not isinstance(number, int) or not 1 <= number <= count:
        raise TypeFact("T211", f"the number of a core is written out, from 1 to {count}", 1)
    sizes = [call.dim(index) for index in range(3, len(call.args))]
    if len(sizes) != 2 * count:
        raise TypeFact("T209", "there are as many sizes of rows as of columns")
    rows, columns = sizes[:count], sizes[count:]
    for axis, parts in enumerate((rows, columns)):
        if product(parts) != have.dims[axis]:
            raise TypeFact(
                "T210",
                f"`{have.dims[axis]}` is wanted as a product, and this is `{product(parts)}`",
            )
    one, bond, k = Dim.of(1), call.dim(2), number - 1
    left, right = one if k == 0 else bond, one if k == count - 1 else bond
    return have.with_dims(left, rows[k], columns[k], right)


def _cores(call: Evaluation, bond: int, rows: list[int], columns: list[int]) -> Any:
    """The tensor train of the operand by one SVD after the other (Oseledets 2011, algorithm 1).

    Inner bonds are ``bond``: smaller singular values are dropped, missing ones are zeros.
    """

    def compute(t: Any, matrix: Any) -> list[Any]:
        count, left, pad = len(rows), 1, t.nn.functional.pad
        order = [axis for k in range(count) for axis in (k, count + k)]
        rest = matrix.reshape(*rows, *columns).permute(order)
        cores = []
        for k in range(count - 1):
            above, below = left * rows[k] * columns[k], prod(rows[k + 1 :] + columns[k + 1 :])
            u, s, v = _svd(t, rest.reshape(above, below))
            kept = min(bond, above, below)
            u = pad(u.narrow(1, 0, kept), (0, bond - kept))
            cores.append(u.reshape(left, rows[k], columns[k], bond))
            rest = s.narrow(0, 0, kept).unsqueeze(-1) * v.narrow(0, 0, kept)
            rest, left = pad(rest, (0, 0, 0, bond - kept)), bond
        return [*cores, rest.reshape(left, rows[-1], columns[-1], 1)]

    return _once(call, f"train {bond} {rows} {columns}", compute)


def _core(call: Evaluation) -> Any:
    number, bond, *sizes = map(int, call.args[1:])
    count = len(sizes) // 2
    return _cores(call, bond, sizes[:count], sizes[count:])[number - 1].to(call.args[0])


def _part_rule(call: Signature) -> Type:
    have = call.types[0]
    if not have.dims:
        raise TypeFact("T209", "this has no dimensions, so it has no part", 0)
    call.dim(1)
    return have.with_dims(call.dim(2), *have.dims[1:])


def _part(call: Evaluation) -> Any:
    have = call.types[0].dims
    first, count = int(call.args[1]), int(call.args[2])
    try:
        size = call.size(have[0])
    except UnboundDim:  # How long a sequence is shows only when the model runs.
        size = first + count
    if first < 0 or first + count > size:
        raise PeftError(
            f"`part` takes {count} entries from number {first} of `{have[0]}`, which is {size}",
            code="S408",
            help="entries are counted from 0",
        )
    return call.args[0].narrow(-len(have), first, count)


def _decomposition_cost(call: Apply) -> Dim:
    return 4 * product((*call.args[0].type.dims, call.args[0].type.dims[1]))


DECOMPOSITIONS = (
    Builtin("svd_u", "svd_u(M, r)", "The first r left singular vectors of a matrix, as columns; "
            "the largest entry of each is positive.", (2, 2), lambda c: _factor(c, 0, None),
            lambda c: _leading(c, _once(c, "svd", _svd)[0], 1), cost=_decomposition_cost,
            single_precision=True, at_most=_rank),
    Builtin("svd_s", "svd_s(M, r)", "The r largest singular values.", (2, 2),
            lambda c: _factor(c, None), lambda c: _leading(c, _once(c, "svd", _svd)[1], 0),
            cost=_decomposition_cost, single_precision=True, at_most=_rank, sign="not negative"),
    Builtin("svd_v", "svd_v(M, r)", "The first r right singular vectors, as rows.", (2, 2),
            lambda c: _factor(c, None, 1), lambda c: _leading(c, _once(c, "svd", _svd)[2], 0),
            cost=_decomposition_cost, single_precision=True, at_most=_rank),
    Builtin("qr_q", "qr_q(M, r)", "The first r columns of Q in M = Q R.", (2, 2),
            lambda c: _factor(c, 0, None), lambda c: _leading(c, _once(c, "qr", _qr)[0], 1),
            cost=_decomposition_cost, single_precision=True, at_most=_rank),
    Builtin("qr_r", "qr_r(M, r)", "The first r rows of R in M = Q R, whose diagonal is not "
            "negative.", (2, 2), lambda c: _factor(c, None, 1),
            lambda c: _leading(c, _once(c, "qr", _qr)[1], 0), cost=_decomposition_cost,
            single_precision=True, at_most=_rank),
    Builtin("train_core", "train_core(M, k, r, i_1, ..., i_n, j_1, ..., j_n)", "Core number k of "
            "a matrix `[i_1 ... i_n, j_1 ... j_n]` as a `tensor_train` with inner bonds r.",
            (5, 19), _core_rule, _core, cost=_decomposition_cost, single_precision=True),
    Builtin("part", "part(x, first, n)", "n entries of the first dimension, from number `first` "
            "on.", (3, 3), _part_rule, _part, linear=(0,), zero="any",
            cost=lambda c: Dim.of(0), rearranges=True),
)  # fmt: skip

"""Matrices with constant diagonals: Toeplitz, circulant, skew-circulant, low displacement rank.

All are written out from the vector of their diagonals, and multiplied by convolution (Golub and
Van Loan 2013, "Matrix Computations", section 4.8). The transform of a vector of n real numbers is
counted as 2.5 n log2(n) operations.
"""

from typing import Any

from peftlang.ir.builtins.operands import constant, shaped, transform_work
from peftlang.ir.builtins.table import Builtin, Evaluation, Fast, Signature, Size
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply
from peftlang.ir.types import Type, TypeFact


def _circulant_rule(call: Signature) -> Type:
    have = constant(call)
    if len(have.dims) == 1:
        return have.with_dims(have.dims[0], have.dims[0])
    if len(have.dims) == 3:
        rows, columns, width = have.dims
        return have.with_dims(rows * width, columns * width)
    raise TypeFact(
        "T209",
        f"a vector, or a vector for each block `[rows, columns, b]`, is wanted, and this is {have}",
        0,
    )


def _square_rule(call: Signature) -> Type:
    have = shaped(call, 0, 1, "a vector is")
    return have.with_dims(have.dims[0], have.dims[0])


def _toeplitz_rule(call: Signature) -> Type:
    have = shaped(call, 0, 1, "a vector is")
    rows, columns = call.dim(1), call.dim(2)
    if have.dims[0] != rows + columns - 1:
        raise TypeFact(
            "T210",
            f"`[{rows}, {columns}]` has {rows + columns - 1} diagonals, and this is {have}",
            0,
        )
    return have.with_dims(rows, columns)


def _displacement_rule(call: Signature) -> Type:
    first = shaped(call, 0, 2, "vectors `[k, d]` are")
    second = shaped(call, 1, 2, "vectors `[k, d]` are")
    if first.dims != second.dims:
        raise TypeFact("T209", f"{first} and {second} are not as many vectors of one size", 1)
    return first.with_dims(first.dims[1], first.dims[1])


def _dense(diagonals: Any, columns: int) -> Any:
    """``[..., rows + columns - 1]``, from the last column's top up, to ``[..., rows, columns]``."""
    return diagonals.flip(-1).unfold(-1, columns, 1).flip(-2)


def _circulant_dense(t: Any, c: Any, size: int) -> Any:
    return _dense(t.cat([c.narrow(-1, 1, size - 1), c], dim=-1), size)


def _skew_dense(t: Any, c: Any, size: int) -> Any:
    return _dense(t.cat([-c.narrow(-1, 1, size - 1), c], dim=-1), size)


def _circulant(call: Evaluation) -> Any:
    c = call.args[0]
    dense = _circulant_dense(call.t, c, call.size(call.types[0].dims[-1]))
    if len(call.types[0].dims) == 1:
        return dense
    return dense.transpose(1, 2).flatten(0, 1).flatten(1, 2)


def _skew_circulant(call: Evaluation) -> Any:
    return _skew_dense(call.t, call.args[0], call.size(call.result.dims[0]))


def _symmetric_diagonals(call: Evaluation) -> Any:
    c, size = call.args[0], call.size(call.result.dims[0])
    return call.t.cat([c.narrow(-1, 1, size - 1).flip(-1), c], dim=-1)


def _symmetric(call: Evaluation) -> Any:
    return _dense(_symmetric_diagonals(call), call.size(call.result.dims[0]))


def _displacement(call: Evaluation) -> Any:
    size = call.size(call.result.dims[0])
    outer = _circulant_dense(call.t, call.args[0], size)
    return (outer @ _skew_dense(call.t, call.args[1], size)).sum(0)


def _spectrum(call: Evaluation, c: Any, length: int, transposed: bool) -> Any:
    """The transform of a convolution, or of the one that its transpose is."""
    found = call.t.fft.rfft(call.precise(c), n=length)
    return found.conj() if transposed else found


def _convolved(call: Evaluation, vectors: Any, spectrum: Any, length: int) -> Any:
    t = call.t
    return t.fft.irfft(t.fft.rfft(call.precise(vectors), n=length) * spectrum, n=length)


def _apply_circulant(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    c, width = call.args[0], call.size(call.types[0].dims[-1])
    spectrum = _spectrum(call, c, width, transposed)
    if len(call.types[0].dims) == 1:
        return _convolved(call, vectors, spectrum, width)
    t = call.t
    parts = t.fft.rfft(call.precise(vectors).unflatten(-1, [-1, width]), n=width)
    rule = "pqf,...pf->...qf" if transposed else "pqf,...qf->...pf"
    return t.fft.irfft(t.einsum(rule, spectrum, parts), n=width).flatten(-2, -1)


def _apply_skew(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    """A skew-circulant matrix is a quarter of the circulant one of ``[c, -c]``."""
    c, size = call.args[0], call.size(call.result.dims[0])
    spectrum = _spectrum(call, call.t.cat([c, -c], dim=-1), 2 * size, transposed)
    return _convolved(call, vectors, spectrum, 2 * size).narrow(-1, 0, size)


def _toeplitz_times(
    call: Evaluation, diagonals: Any, vectors: Any, sizes: tuple[int, int], transposed: bool
) -> Any:
    """``sizes`` are those of the matrix, transposed or not, that multiplies."""
    rows, columns = sizes
    length = _power_of_two(rows + columns - 1)
    spectrum = _spectrum(call, diagonals.flip(-1) if transposed else diagonals, length, False)
    return _convolved(call, vectors, spectrum, length).narrow(-1, columns - 1, rows)


def _apply_toeplitz(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    rows, columns = (call.size(d) for d in call.result.dims)
    sizes = (columns, rows) if transposed else (rows, columns)
    return _toeplitz_times(call, call.args[0], vectors, sizes, transposed)


def _apply_symmetric(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    size = call.size(call.result.dims[0])
    return _toeplitz_times(call, _symmetric_diagonals(call), vectors, (size, size), False)


def _apply_displacement(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    g, h = call.args
    t, size = call.t, call.size(call.result.dims[0])
    circulant = _spectrum(call, g, size, transposed)
    skew = _spectrum(call, t.cat([h, -h], dim=-1), 2 * size, transposed)
    if transposed:
        inner = _convolved(call, vectors.unsqueeze(-2), circulant, size)
        return _convolved(call, inner, skew, 2 * size).narrow(-1, 0, size).sum(-2)
    inner = _convolved(call, vectors.unsqueeze(-2), skew, 2 * size).narrow(-1, 0, size)
    return _convolved(call, inner, circulant, size).sum(-2)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _convolution_cost(length: int, count: int = 1) -> tuple[int, int]:
    """Of ``count`` convolutions: the transforms of their vectors once; two and a product each."""
    return count * transform_work(length), count * (2 * transform_work(length) + 3 * length)


def _circulant_cost(call: Apply, size: Size) -> tuple[int, int]:
    *blocks, width = (size(d) for d in call.args[0].type.dims)
    if not blocks:
        return _convolution_cost(width)
    rows, columns = blocks
    each = (rows + columns) * transform_work(width) + 4 * rows * columns * width
    return rows * columns * transform_work(width), each


def _toeplitz_cost(call: Apply, size: Size) -> tuple[int, int]:
    rows, columns = (size(d) for d in call.type.dims)
    return _convolution_cost(_power_of_two(rows + columns - 1))


def _skew_cost(call: Apply, size: Size) -> tuple[int, int]:
    return _convolution_cost(2 * size(call.type.dims[0]))


def _displacement_cost(call: Apply, size: Size) -> tuple[int, int]:
    count, width = (size(d) for d in call.args[0].type.dims)
    first, second = _convolution_cost(width, count), _convolution_cost(2 * width, count)
    return first[0] + second[0], first[1] + second[1] + count * width


def _displacement_dense_cost(call: Apply) -> Dim:
    count, width = call.args[0].type.dims
    return 2 * count * width**3


TOEPLITZ = (
    Builtin("circulant", "circulant(c)", "The circulant matrix whose first column is `c`: entry "
            "(i, j) is `c[(i - j) mod d]`; of `c[rows, columns, b]`, such a block of size `b` at "
            "each place.", (1, 1), _circulant_rule, _circulant, linear=(0,), zero="all",
            fast=Fast(_apply_circulant, _circulant_cost), single_precision=True),
    Builtin("skew_circulant", "skew_circulant(c)", "The circulant matrix of `c` with the entries "
            "above the diagonal negated.", (1, 1), _square_rule, _skew_circulant, linear=(0,),
            zero="all", fast=Fast(_apply_skew, _skew_cost), single_precision=True),
    Builtin("toeplitz", "toeplitz(c, rows, columns)", "The matrix that is constant along its "
            "diagonals: entry (i, j) is `c[i - j + columns - 1]`.", (3, 3), _toeplitz_rule,
            lambda c: _dense(c.args[0], c.size(c.result.dims[1])), linear=(0,), zero="any",
            fast=Fast(_apply_toeplitz, _toeplitz_cost), single_precision=True),
    Builtin("symmetric_toeplitz", "symmetric_toeplitz(c)", "The symmetric matrix that is constant "
            "along its diagonals: entry (i, j) is `c[abs(i - j)]`.", (1, 1), _square_rule,
            _symmetric, linear=(0,), zero="all", fast=Fast(_apply_symmetric, _toeplitz_cost),
            single_precision=True),
    Builtin("low_displacement", "low_displacement(g, h)", "The sum over the rows of `g[k, d]` and "
            "`h[k, d]` of `circulant(g_i) @ skew_circulant(h_i)`: displacement rank k.", (2, 2),
            _displacement_rule, _displacement, linear=(0, 1), zero="any",
            cost=_displacement_dense_cost, single_precision=True,
            fast=Fast(_apply_displacement, _displacement_cost)),
)  # fmt: skip

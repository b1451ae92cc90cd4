"""Structured matrices: Fourier, Kronecker, block-diagonal, orthogonal, butterfly."""

from typing import Any

from peftlang.ir.builtins.table import Builtin, Evaluation, Signature
from peftlang.ir.dims import Dim, product
from peftlang.ir.types import Level, Type, TypeFact


def _constant(call: Signature, index: int = 0) -> Type:
    """The type of an operand that is the same for every input."""
    have = call.inexact(index)
    if have.level is not Level.CONST:
        raise TypeFact("this is not the same for every input, as it has to be here", code="T209",
                       argument=index)  # fmt: skip
    return have


def _matrix(call: Signature, index: int = 0) -> Type:
    have = call.inexact(index)
    if len(have.dims) < 2:
        raise TypeFact(f"a matrix is wanted, and this is {have}", code="T209", argument=index)
    return have


def _square(call: Signature) -> Type:
    have = _matrix(call)
    if have.dims[-1] != have.dims[-2]:
        raise TypeFact(f"a square matrix is wanted, and this is {have}", code="T209", argument=0)
    return have


def _scatter_rule(call: Signature) -> Type:
    values, entries = call.types[0], call.types[1]
    if entries.kind != "int" or len(entries.dims) != 2 or entries.dims[1] != Dim.of(2):
        raise TypeFact(f"places are pairs of integers `[n, 2]`, got {entries}",
                       code="T209", argument=1, help="`~ random_entries(n, m)`")  # fmt: skip
    _constant(call)
    if entries.level is not Level.CONST:
        raise TypeFact("the places are the same for every input", code="T209", argument=1)
    if values.dims != entries.dims[:1]:
        raise TypeFact(f"there are {entries.dims[0]} places for the values {values}",
                       code="T209", argument=0)  # fmt: skip
    return Type((call.dim(2), call.dim(3)), values.level, values.kind)


def _scatter(call: Evaluation) -> Any:
    values, entries = call.args[0], call.args[1]
    rows, columns = (call.size(d) for d in call.result.dims)
    flat = entries.select(-1, 0) * columns + entries.select(-1, 1)
    zeros = values.new_zeros([rows * columns])
    return zeros.index_add(0, flat, values).unflatten(0, [rows, columns])


def _kron_rule(call: Signature) -> Type:
    a, b = _constant(call, 0), _constant(call, 1)
    if len(a.dims) != 2 or len(b.dims) != 2:
        raise TypeFact(f"two matrices are wanted, and these are {a} and {b}", code="T209")
    return a.with_dims(a.dims[0] * b.dims[0], a.dims[1] * b.dims[1])


def _blocks_rule(call: Signature) -> Type:
    have = _constant(call)
    if len(have.dims) != 3:
        raise TypeFact(f"blocks `[n, rows, columns]` are wanted, and this is {have}",
                       code="T209", argument=0)  # fmt: skip
    count, rows, columns = have.dims
    return have.with_dims(count * rows, count * columns)


def _block_diagonal(t: Any, blocks: Any) -> Any:
    """The dense matrix with ``blocks[n, rows, columns]`` on its diagonal."""
    spread = t.diag_embed(blocks.movedim(0, -1))
    return spread.permute(2, 0, 3, 1).flatten(0, 1).flatten(1, 2)


def _cayley(call: Evaluation) -> Any:
    t, skew = call.t, call.precise(call.args[0])
    eye = t.diag_embed(t.ones_like(skew.select(-1, 0)))
    return t.linalg.solve(eye + skew, eye - skew, left=False)


def _orthonormal_rule(call: Signature) -> Type:
    have = call.inexact()
    if len(have.dims) != 2 or have.level is not Level.CONST:
        raise TypeFact(f"a matrix of parameters is wanted, and this is {have}", code="T209",
                       argument=0)  # fmt: skip
    return have


def _orthonormal(call: Evaluation) -> Any:
    """Gram-Schmidt on the rows, in order; a matrix whose rows are orthonormal is left as it is."""
    q, r = call.t.linalg.qr(call.precise(call.args[0]).transpose(-1, -2))
    return (q * call.t.diagonal(r).sgn()).transpose(-1, -2)


def _butterfly_rule(call: Signature) -> Type:
    have = _constant(call)
    if len(have.dims) != 4 or have.dims[-1] != have.dims[-2]:
        raise TypeFact(f"factors `[m, n, b, b]` are wanted, and this is {have}",
                       code="T209", argument=0)  # fmt: skip
    width = have.dims[1] * have.dims[2]
    return have.with_dims(width, width)


def _shuffled(matrix: Any, axis: int, groups: int, pairs: int, half: int) -> Any:
    """Inside each group, chunks of ``half`` along ``axis``: even ones first, then odd ones."""
    parted = matrix.unflatten(axis, [groups, pairs, 2, half])
    return parted.transpose(axis + 1, axis + 2).flatten(axis, axis + 3)


def _butterfly(call: Evaluation) -> Any:
    """Factor i conjugates a block-diagonal matrix by a permutation that pairs distant chunks.

    In factor i (from 0), groups of ``b * 2**i`` coordinates are shuffled in chunks of
    ``b / 2``, so that one block mixes chunks that lie apart; factor 0 is not shuffled.
    """
    t, factors = call.t, call.args[0]
    stages, count, block = (call.size(d) for d in call.types[0].dims[:3])
    total = None
    for stage in range(stages):
        dense = _block_diagonal(t, factors.select(0, stage))
        if stage:
            groups = count // 2**stage
            for axis in (0, 1):
                dense = _shuffled(dense, axis, groups, 2**stage, block // 2)
        total = dense if total is None else t.matmul(dense, total)
    return total


def _real(call: Signature) -> Type:
    return Type(call.types[0].dims, call.types[0].level, "float")


STRUCTURED = (
    Builtin("real", "real(z)", "Real part.", (1, 1),
            _real, lambda c: c.t.real(c.args[0]),
            linear=(0,), zero="all", cost=lambda c: Dim.of(0)),
    Builtin("ifft2", "ifft2(M)", "Two-dimensional inverse discrete Fourier transform, scaled by "
            "1 / (rows * columns).", (1, 1),
            lambda c: Type(_matrix(c).dims, c.types[0].level, "complex"),
            lambda c: c.t.fft.ifft2(c.precise(c.args[0])), linear=(0,), zero="all",
            single_precision=True),
    Builtin("fft2", "fft2(M)", "Two-dimensional discrete Fourier transform.", (1, 1),
            lambda c: Type(_matrix(c).dims, c.types[0].level, "complex"),
            lambda c: c.t.fft.fft2(c.precise(c.args[0])), linear=(0,), zero="all",
            single_precision=True),
    Builtin("scatter", "scatter(c, E, rows, columns)", "The matrix that is zero but for `c` at "
            "the places `E[n, 2]`.", (4, 4), _scatter_rule, _scatter, linear=(0,), zero="any"),
    Builtin("kron", "kron(A, B)", "Kronecker product of two matrices.", (2, 2), _kron_rule,
            lambda c: c.t.kron(c.args[0], c.args[1]), linear=(0, 1), zero="any"),
    Builtin("block_diag", "block_diag(B)", "The block-diagonal matrix of blocks `[n, rows, "
            "columns]`.", (1, 1), _blocks_rule,
            lambda c: _block_diagonal(c.t, c.args[0]), linear=(0,),
            zero="all"),
    Builtin("skew", "skew(Q)", "The skew-symmetric part, (Q - transpose(Q)) / 2.", (1, 1),
            _square, lambda c: (c.args[0] - c.args[0].transpose(-1, -2)) / 2, linear=(0,),
            zero="all"),
    Builtin("cayley", "cayley(S)", "The Cayley transform (I - S) (I + S)^-1: orthogonal when S is "
            "skew-symmetric.", (1, 1), _square, _cayley, single_precision=True,
            cost=lambda c: 2 * product((*c.type.dims, c.type.dims[-1]))),
    Builtin("orthonormal", "orthonormal(M)", "The matrix whose rows are those of `M[r, d]`, "
            "r <= d, made orthonormal one after the other (Gram-Schmidt): `M` itself when its "
            "rows are orthonormal already.", (1, 1), _orthonormal_rule, _orthonormal,
            cost=lambda c: 2 * product((c.type.dims[0], *c.type.dims)), single_precision=True),
    Builtin("butterfly", "butterfly(R)", "The product of block-butterfly factors `[m, n, b, b]`, "
            "the last stage outermost (Liu et al. 2024, BOFT).", (1, 1), _butterfly_rule,
            _butterfly, cost=lambda c: 2 * product((c.args[0].type.dims[0], c.type.dims[0],
                                                    c.type.dims[1], c.args[0].type.dims[2]))),
)  # fmt: skip

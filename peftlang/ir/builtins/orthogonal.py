"""Orthogonal matrices: Cayley, Gram-Schmidt, Householder, plane rotations, butterfly."""

from typing import Any

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins.blocks import block_diagonal
from peftlang.ir.builtins.layout import pieces
from peftlang.ir.builtins.operands import constant, shaped, square
from peftlang.ir.builtins.table import Builtin, Evaluation, Fast, Signature, Size
from peftlang.ir.dims import Dim, product
from peftlang.ir.expr import Apply
from peftlang.ir.types import Type, TypeFact


def _cayley(call: Evaluation) -> Any:
    t, skew = call.t, call.precise(call.args[0])
    eye = t.diag_embed(t.ones_like(skew.select(-1, 0)))
    return t.linalg.solve(eye + skew, eye - skew, left=False)


def _solve(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    """``2 (I + S)^-1 v - v``: one factorisation for all vectors."""
    t, given = call.t, call.precise(vectors)
    plus = call.precise(call.args[0]) + t.diag_embed(t.ones_like(call.args[0].select(-1, 0)))
    rows = given.reshape(-1, call.size(call.result.dims[0]))
    turned = plus if transposed else plus.transpose(-1, -2)
    return 2 * t.linalg.solve(turned, rows, left=False).reshape_as(given) - given


def _solve_cost(call: Apply, size: Size) -> tuple[int, int]:
    width = size(call.type.dims[0])
    return 2 * width**3 // 3, 2 * width**2 + 2 * width


def _orthonormal_rule(call: Signature) -> Type:
    return shaped(call, 0, 2, "a matrix of parameters is")


def _orthonormal(call: Evaluation) -> Any:
    """Gram-Schmidt on the rows, in order; a matrix whose rows are orthonormal is left as it is."""
    rows, columns = (call.size(d) for d in call.types[0].dims)
    if rows > columns:
        raise PeftError(
            f"`orthonormal` of {rows} rows of {columns} numbers each: no more than {columns} rows "
            "can be orthonormal",
            code="S408",
            help="choose fewer rows",
        )
    q, r = call.t.linalg.qr(call.precise(call.args[0]).transpose(-1, -2))
    return (q * call.t.diagonal(r).sgn()).transpose(-1, -2)


def _householder_rule(call: Signature) -> Type:
    have = shaped(call, 0, 2, "vectors `[r, d]` are")
    return have.with_dims(have.dims[1], have.dims[1])


def _reflected(call: Evaluation) -> tuple[Any, Any]:
    """``U`` and ``K`` with ``H_1 ... H_r = I - U' K`` (Joffrain et al. 2006).

    A vector of zeros reflects nothing.
    """
    t, vectors = call.t, call.precise(call.args[0])
    products = vectors @ vectors.transpose(-1, -2)
    squares = t.diagonal(products).clamp(min=1e-30)
    upper = t.triu(products, 1) + t.diag_embed(squares / 2)
    return vectors, t.linalg.solve_triangular(upper, vectors, upper=True)


def _householder(call: Evaluation) -> Any:
    vectors, solved = _reflected(call)
    eye = call.t.diag_embed(call.t.ones_like(vectors.select(0, 0)))
    return eye - vectors.transpose(-1, -2) @ solved


def _reflect(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    own, solved = _reflected(call)
    given = call.precise(vectors)
    outer, inner = (solved, own) if transposed else (own, solved)
    return given - given @ inner.transpose(-1, -2) @ outer


def _householder_dense_cost(call: Apply) -> Dim:
    count, width = call.args[0].type.dims
    return 3 * count**2 * width + 2 * count * width**2


def _householder_cost(call: Apply, size: Size) -> tuple[int, int]:
    count, width = (size(d) for d in call.args[0].type.dims)
    return 3 * count**2 * width, (4 * count + 1) * width


def _rotation_rule(call: Signature) -> Type:
    have = call.tensor()
    return have.with_dims(*have.dims, Dim.of(2), Dim.of(2))


def _rotation(call: Evaluation) -> Any:
    t, angle = call.t, call.args[0]
    cos, sin = t.cos(angle), t.sin(angle)
    return t.stack([t.stack([cos, -sin], dim=-1), t.stack([sin, cos], dim=-1)], dim=-2)


def _givens_rule(call: Signature) -> Type:
    have = shaped(call, 0, 3, "blocks `[d - 1, 2, 2]` are")
    if have.dims[1:] != (Dim.of(2), Dim.of(2)):
        raise TypeFact(
            "T209",
            f"blocks `[d - 1, 2, 2]` are wanted, and this is {have}",
            0,
            help="`rotation(a)` makes them of angles",
        )
    return have.with_dims(have.dims[0] + 1, have.dims[0] + 1)


def _rounds(width: int) -> list[int]:
    """How many pairs each round of the tournament has; ``width - 1`` altogether."""
    pairs = []
    while width > 1:
        pairs.append(width // 2)
        width -= width // 2
    return pairs


def _turn(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    """In each round neighbours turn by one block, and the first of each pair plays on."""
    t, width = call.t, call.size(call.result.dims[0])
    rounds = _rounds(width)
    done: list[tuple[Any, Any, int]] = []
    for pairs, turns in zip(rounds, pieces(call.args[0], rounds, 0), strict=True):
        players = vectors.narrow(-1, 0, 2 * pairs).unflatten(-1, [pairs, 2])
        if not transposed:
            players = t.einsum("pij,...pj->...pi", turns, players)
        alone = vectors.narrow(-1, 2 * pairs, width - 2 * pairs)
        vectors, width = t.cat([players.select(-1, 0), alone], dim=-1), width - pairs
        done.append((players.select(-1, 1), turns, pairs))
    for others, turns, pairs in reversed(done):
        players = t.stack([vectors.narrow(-1, 0, pairs), others], dim=-1)
        if transposed:
            players = t.einsum("pji,...pj->...pi", turns, players)
        alone = vectors.narrow(-1, pairs, width - pairs)
        vectors, width = t.cat([players.flatten(-2, -1), alone], dim=-1), width + pairs
    return vectors


def _givens(call: Evaluation) -> Any:
    blocks, t = call.args[0], call.t
    line = t.nn.functional.pad(blocks.select(-1, 0).select(-1, 0), (0, 1))
    return _turn(call, t.diag_embed(t.ones_like(line)), False).transpose(-1, -2)


def _givens_cost(call: Apply, size: Size) -> tuple[int, int]:
    return 0, 6 * size(call.args[0].type.dims[0])


def _butterfly_rule(call: Signature) -> Type:
    have = constant(call)
    if len(have.dims) != 4 or have.dims[-1] != have.dims[-2]:
        raise TypeFact("T209", f"factors `[m, n, b, b]` are wanted, and this is {have}", 0)
    width = have.dims[1] * have.dims[2]
    return have.with_dims(width, width)


def _shuffled(matrix: Any, axis: int, groups: int, pairs: int, half: int) -> Any:
    """Inside each group, chunks of ``half`` along ``axis``: even ones first, then odd ones."""
    parted = matrix.unflatten(axis, [groups, pairs, 2, half])
    return parted.transpose(axis + 1, axis + 2).flatten(axis, axis + 3)


def _butterfly_sizes(call: Evaluation) -> tuple[int, int, int]:
    """Stages, blocks in each, and their width; each stage after the first pairs up the blocks."""
    stages, count, block = (call.size(d) for d in call.types[0].dims[:3])
    if stages > 1 and (count % 2 ** (stages - 1) or block % 2):
        raise PeftError(
            f"{stages} stages of `butterfly` want blocks of an even size, and a multiple of "
            f"{2 ** (stages - 1)} of them; these are {count} blocks of size {block}",
            code="S408",
            help="choose fewer stages, or blocks of another size",
        )
    return stages, count, block


def _butterfly(call: Evaluation) -> Any:
    """Factor i conjugates a block-diagonal matrix by a permutation that pairs distant chunks.

    In factor i (from 0), groups of ``b * 2**i`` coordinates are shuffled in chunks of
    ``b / 2``, so that one block mixes chunks that lie apart; factor 0 is not shuffled.
    """
    t, factors = call.t, call.args[0]
    stages, count, block = _butterfly_sizes(call)
    total = None
    for stage in range(stages):
        dense = block_diagonal(t, factors.select(0, stage))
        if stage:
            groups = count // 2**stage
            for axis in (0, 1):
                dense = _shuffled(dense, axis, groups, 2**stage, block // 2)
        total = dense if total is None else t.matmul(dense, total)
    return total


def _through_butterfly(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    factors = call.args[0]
    stages, count, block = _butterfly_sizes(call)
    rule = "nji,...nj->...ni" if transposed else "nij,...nj->...ni"
    for stage in reversed(range(stages)) if transposed else range(stages):
        shape = [count // 2**stage, 2, 2**stage, block // 2]
        if stage:
            vectors = vectors.unflatten(-1, shape).transpose(-3, -2).flatten(-4, -1)
        parted = vectors.unflatten(-1, [count, block])
        vectors = call.t.einsum(rule, factors.select(0, stage), parted).flatten(-2, -1)
        if stage:
            shape[1], shape[2] = shape[2], shape[1]
            vectors = vectors.unflatten(-1, shape).transpose(-3, -2).flatten(-4, -1)
    return vectors


def _butterfly_dense_cost(call: Apply) -> Dim:
    stages, _, block, _ = call.args[0].type.dims
    return 2 * product((stages, block, *call.type.dims))


def _butterfly_cost(call: Apply, size: Size) -> tuple[int, int]:
    stages, count, block, _ = (size(d) for d in call.args[0].type.dims)
    return 0, 2 * stages * count * block * block


ORTHOGONAL = (
    Builtin("skew", "skew(Q)", "The skew-symmetric part, (Q - transpose(Q)) / 2.", (1, 1),
            square, lambda c: (c.args[0] - c.args[0].transpose(-1, -2)) / 2, linear=(0,),
            zero="all"),
    Builtin("cayley", "cayley(S)", "The Cayley transform (I - S) (I + S)^-1: orthogonal when S is "
            "skew-symmetric.", (1, 1), square, _cayley, single_precision=True,
            eye="zero", orthogonal="skew", fast=Fast(_solve, _solve_cost),
            cost=lambda c: 3 * product((*c.type.dims, c.type.dims[-1]))),
    Builtin("orthonormal", "orthonormal(M)", "The matrix whose rows are those of `M[r, d]`, "
            "r <= d, made orthonormal one after the other (Gram-Schmidt): `M` itself when its "
            "rows are orthonormal already.", (1, 1), _orthonormal_rule, _orthonormal,
            keeps_orthonormal=True, orthogonal="always",
            cost=lambda c: 2 * product((c.type.dims[0], *c.type.dims)), single_precision=True),
    Builtin("householder", "householder(U)", "The product of the reflections I - 2 u u' / (u' u) "
            "of the rows of `U[r, d]`, the first one leftmost.", (1, 1), _householder_rule,
            _householder, single_precision=True, orthogonal="always",
            cost=_householder_dense_cost,
            fast=Fast(_reflect, _householder_cost)),
    Builtin("rotation", "rotation(a)", "For each angle the block `[[cos, -sin], [sin, cos]]`.",
            (1, 1), _rotation_rule, _rotation, eye="zero", orthogonal="always"),
    Builtin("givens", "givens(R)", "The product of blocks `[d - 1, 2, 2]`, each of which turns "
            "two coordinates: in the first round, which acts first, neighbours; in each further "
            "one neighbours among the first of each pair (Ma et al. 2024, GOFT).", (1, 1),
            _givens_rule, _givens, eye="eye", orthogonal="operands",
            cost=lambda c: 12 * c.type.size,
            fast=Fast(_turn, _givens_cost)),
    Builtin("butterfly", "butterfly(R)", "The product of block-butterfly factors `[m, n, b, b]`, "
            "the last stage outermost (Liu et al. 2024, BOFT).", (1, 1), _butterfly_rule,
            _butterfly, eye="eye", orthogonal="operands", cost=_butterfly_dense_cost,
            fast=Fast(_through_butterfly, _butterfly_cost)),
)  # fmt: skip

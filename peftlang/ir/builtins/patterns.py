"""Matrices that are zero outside a fixed pattern: scattered places, bands, triangles."""

from itertools import pairwise
from typing import Any

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins.layout import pieces
from peftlang.ir.builtins.operands import constant, shaped
from peftlang.ir.builtins.table import Builtin, Evaluation, Fast, Signature, Size
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply
from peftlang.ir.types import Level, Type, TypeFact


def _scatter_rule(call: Signature) -> Type:
    values, entries = call.types[0], call.types[1]
    if entries.kind != "int" or len(entries.dims) != 2 or entries.dims[1] != Dim.of(2):
        raise TypeFact(
            "T209",
            f"places are pairs of integers `[n, 2]`, got {entries}",
            1,
            help="`~ random_entries(n, m)`",
        )
    constant(call)
    if entries.level is not Level.CONST:
        raise TypeFact("T209", "the places are the same for every input", 1)
    if values.dims != entries.dims[:1]:
        raise TypeFact("T209", f"there are {entries.dims[0]} places for the values {values}", 0)
    return Type((call.dim(2), call.dim(3)), values.level, values.kind)


def _scatter(call: Evaluation) -> Any:
    values, entries = call.args[0], call.args[1]
    rows, columns = (call.size(d) for d in call.result.dims)
    flat = entries.select(-1, 0) * columns + entries.select(-1, 1)
    zeros = values.new_zeros([rows * columns])
    return zeros.index_add(0, flat, values).unflatten(0, [rows, columns])


def _through_scatter(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    values, entries = call.args[0], call.args[1]
    to, of = (1, 0) if transposed else (0, 1)
    parts = vectors.index_select(-1, entries.select(-1, of)) * values
    pad = call.t.nn.functional.pad
    zeros = pad(vectors.narrow(-1, 0, 0), (0, call.size(call.result.dims[to])))
    return zeros.index_add(-1, entries.select(-1, to), parts)


def _scatter_cost(call: Apply, size: Size) -> tuple[int, int]:
    return 0, 2 * size(call.args[0].type.size)


def _banded_rule(call: Signature) -> Type:
    have = shaped(call, 0, 1, "a vector is")
    width, beside = call.dim(1), call.dim(2)
    count = width * (2 * beside + 1) - beside * (beside + 1)
    if have.dims[0] != count:
        raise TypeFact(
            "T210", f"a band of {beside} on each side has {count} entries, and this is {have}", 0
        )
    return have.with_dims(width, width)


def _bands(call: Evaluation) -> list[tuple[int, Any]]:
    """Offset and entries of each diagonal, from the lowest."""
    width, beside = call.size(call.result.dims[0]), int(call.args[2])
    if not 0 <= beside < width:
        raise PeftError(
            f"a band of {beside} on each side does not fit a matrix of {width} rows",
            code="S408",
            help="choose a narrower band",
        )
    offsets = range(-beside, beside + 1)
    parts = pieces(call.args[0], [width - abs(k) for k in offsets], 0)
    return list(zip(offsets, parts, strict=True))


def _banded(call: Evaluation) -> Any:
    total = None
    for offset, entries in _bands(call):
        dense = call.t.diag_embed(entries, offset=offset)
        total = dense if total is None else total + dense
    return total


def _through_bands(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    total, pad = None, call.t.nn.functional.pad
    for offset, entries in _bands(call):
        k = -offset if transposed else offset
        count = call.size(call.result.dims[0]) - abs(k)
        part = pad(vectors.narrow(-1, max(k, 0), count) * entries, (max(-k, 0), max(k, 0)))
        total = part if total is None else total + part
    return total


def _bands_cost(call: Apply, size: Size) -> tuple[int, int]:
    return 0, 2 * size(call.args[0].type.size)


def _triangular_rule(call: Signature) -> Type:
    have, width = shaped(call, 0, 1, "a vector is"), call.dim(1)
    if 2 * have.dims[0] != width * (width + 1):
        raise TypeFact(
            "T210",
            f"a triangle of {width} rows has {width} * ({width} + 1) / 2 entries, and "
            f"this is {have}",
            0,
        )
    return have.with_dims(width, width)


_STRIPES = 8
"""How many stripes of rows a triangle is multiplied in: what lies right of a stripe is left out, so
that 9/16 of the full matrix is multiplied. More stripes would come closer to the half that is not
zero, with more and smaller products."""


def _stripe(call: Evaluation, first: int, end: int) -> Any:
    """Rows ``first`` to ``end`` of the triangle, ``[end - first, end]``."""
    t, entries = call.t, call.args[0]
    own = entries.narrow(0, first * (first + 1) // 2, (end * (end + 1) - first * (first + 1)) // 2)
    # Counting by a running sum of ones, so that the device is the entries'.
    count = t.cumsum(t.ones_like(entries.narrow(0, 0, end), dtype=t.long), 0) - 1
    rows = count.narrow(0, first, end - first)
    starts = rows * (rows + 1) // 2 - first * (first + 1) // 2
    places = t.tril(starts.unsqueeze(-1) + count, first)
    return t.tril(own[places], first)


def _triangular(call: Evaluation) -> Any:
    return _stripe(call, 0, call.size(call.result.dims[0]))


def _stripes(width: int) -> list[tuple[int, int]]:
    bounds = [width * n // _STRIPES for n in range(_STRIPES + 1)]
    return [(first, end) for first, end in pairwise(bounds) if first < end]


def _through_stripes(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    t, width = call.t, call.size(call.result.dims[0])
    parts, total = [], None
    for first, end in _stripes(width):
        stripe = _stripe(call, first, end)
        if not transposed:
            parts.append(vectors.narrow(-1, 0, end) @ stripe.transpose(0, 1))
            continue
        part = vectors.narrow(-1, first, end - first) @ stripe
        part = t.nn.functional.pad(part, (0, width - end))
        total = part if total is None else total + part
    return total if transposed else t.cat(parts, dim=-1)


def _stripes_cost(call: Apply, size: Size) -> tuple[int, int]:
    return 0, sum(2 * (end - first) * end for first, end in _stripes(size(call.type.dims[0])))


def _diag_rule(call: Signature) -> Type:
    have = call.types[0]
    if len(have.dims) != 1:
        raise TypeFact("T209", f"a vector is wanted, and this is {have}", 0)
    return have.with_dims(have.dims[0], have.dims[0])


def _through_diagonal(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    return vectors * call.args[0]


PATTERNS = (
    Builtin("diag", "diag(v)", "The square matrix with a vector on its diagonal.", (1, 1),
            _diag_rule, lambda c: c.t.diag_embed(c.args[0]), linear=(0,), zero="all", eye="ones",
            fast=Fast(_through_diagonal, lambda c, size: (0, size(c.type.dims[0])))),
    Builtin("scatter", "scatter(c, E, rows, columns)", "The matrix that is zero but for `c` at "
            "the places `E[n, 2]`.", (4, 4), _scatter_rule, _scatter, linear=(0,), zero="any",
            fast=Fast(_through_scatter, _scatter_cost)),
    Builtin("banded", "banded(c, d, w)", "The square matrix `[d, d]` of the diagonals up to `w` "
            "beside the main one, which `c` holds one after the other, the lowest first.",
            (3, 3), _banded_rule, _banded, linear=(0,), zero="any",
            fast=Fast(_through_bands, _bands_cost)),
    Builtin("triangular", "triangular(c, d)", "The lower triangular matrix `[d, d]` whose rows "
            "`c` holds one after the other; `transpose` makes it upper.", (2, 2),
            _triangular_rule, _triangular, linear=(0,), zero="any",
            fast=Fast(_through_stripes, _stripes_cost)),
)  # fmt: skip

"""Matrices put together from smaller ones: blocks, Kronecker products, tensor trains."""

from typing import Any

from peftlang.ir.builtins.operands import constant, shaped
from peftlang.ir.builtins.table import Builtin, Evaluation, Fast, Signature, Size
from peftlang.ir.builtins.tensors import outer_product
from peftlang.ir.dims import Dim, product
from peftlang.ir.expr import Apply
from peftlang.ir.types import Level, Type, TypeFact


def _kron_rule(call: Signature) -> Type:
    a, b = call.inexact(0), call.inexact(1)
    if len(a.dims) == 3:
        constant(call, 0), constant(call, 1)
    if not 2 <= len(a.dims) == len(b.dims) <= 3 or a.dims[:-2] != b.dims[:-2]:
        raise TypeFact(
            "T209",
            f"two matrices are wanted, or as many in each of two stacks, and these are {a} and {b}",
        )
    dims = (*a.dims[:-2], a.dims[-2] * b.dims[-2], a.dims[-1] * b.dims[-1])
    return Type(dims, max(a.level, b.level))


def _kron(call: Evaluation) -> Any:
    a, b = call.args
    if call.result.level is not Level.CONST:
        return outer_product(call).transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)
    if len(call.types[0].dims) == 2:
        return call.t.kron(a.contiguous(), b.contiguous())
    return call.t.einsum("nij,nkl->nikjl", a, b).flatten(1, 2).flatten(2, 3)


def _through_kron(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    """``(A (x) B) x`` is ``A X B'``, with ``X`` the vector as a matrix."""
    a, b = (m.transpose(0, 1) if transposed else m for m in call.args)
    sizes = [call.size(d) for type_ in call.types for d in type_.dims]
    shape = [sizes[0], sizes[2]] if transposed else [sizes[1], sizes[3]]
    return (a @ (vectors.unflatten(-1, shape) @ b.transpose(0, 1))).flatten(-2, -1)


def _kron_cost(call: Apply, size: Size) -> tuple[int, int]:
    (m, n), (p, q) = ([size(d) for d in arg.type.dims] for arg in call.args)
    return 0, 2 * n * p * q + 2 * m * n * p


def _blocks_rule(call: Signature) -> Type:
    have = shaped(call, 0, 3, "blocks `[n, rows, columns]` are")
    count, rows, columns = have.dims
    return have.with_dims(count * rows, count * columns)


def block_diagonal(t: Any, blocks: Any) -> Any:
    """The dense matrix with ``blocks[n, rows, columns]`` on its diagonal."""
    spread = t.diag_embed(blocks.movedim(0, -1))
    return spread.permute(2, 0, 3, 1).flatten(0, 1).flatten(1, 2)


def _through_blocks(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    count, rows, columns = (call.size(d) for d in call.types[0].dims)
    parted = vectors.unflatten(-1, [count, rows if transposed else columns])
    rule = "nji,...nj->...ni" if transposed else "nij,...nj->...ni"
    return call.t.einsum(rule, call.args[0], parted).flatten(-2, -1)


def _blocks_cost(call: Apply, size: Size) -> tuple[int, int]:
    return 0, 2 * size(call.args[0].type.size)


def _train_rule(call: Signature) -> Type:
    cores = [
        shaped(call, i, 4, "a core `[r, rows, columns, r']` is") for i in range(len(call.args))
    ]
    before = Dim.of(1)
    for index, core in enumerate(cores):
        if core.dims[0] != before:
            raise TypeFact(
                "T209",
                f"the core before this one ends with a bond of {before}, and this is {core}",
                index,
                help="the outermost bonds are 1",
            )
        before = core.dims[3]
    if before != Dim.of(1):
        raise TypeFact(
            "T209", f"the last core ends with a bond of 1, and this is {cores[-1]}", len(cores) - 1
        )
    rows, columns = (product(core.dims[axis] for core in cores) for axis in (1, 2))
    return cores[0].with_dims(rows, columns)


def _train(call: Evaluation) -> Any:
    """``[rows, columns, bond]`` grows by one core at a time."""
    total = call.args[0].squeeze(0)
    for core in call.args[1:]:
        total = call.t.einsum("abr,rijs->aibjs", total, core).flatten(0, 1).flatten(1, 2)
    return total.squeeze(-1)


def _through_train(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    """``[..., rows so far, bond, columns to come]``, one core at a time."""
    state = vectors.unsqueeze(-2).unsqueeze(-2)
    rule = "...arib,rijs->...ajsb" if transposed else "...arjb,rijs->...aisb"
    for core, type_ in zip(call.args, call.types, strict=True):
        summed = call.size(type_.dims[1 if transposed else 2])
        state = call.t.einsum(rule, state.unflatten(-1, [summed, -1]), core).flatten(-4, -3)
    return state.flatten(-3, -1)


def _train_cost(call: Apply, size: Size) -> tuple[int, int]:
    cores = [[size(d) for d in arg.type.dims] for arg in call.args]
    work, rows, columns = 0, 1, size(call.type.dims[1])
    for left, own_rows, own_columns, right in cores:
        columns //= own_columns
        work += 2 * rows * columns * left * own_rows * own_columns * right
        rows *= own_rows
    return 0, work


BLOCKS = (
    Builtin("kron", "kron(A, B)", "Kronecker product of two matrices, or of each pair in two "
            "stacks.", (2, 2), _kron_rule, _kron, linear=(0, 1), zero="any",
            eye="eye", orthogonal="operands", fast=Fast(_through_kron, _kron_cost)),
    Builtin("block_diag", "block_diag(B)", "The block-diagonal matrix of blocks `[n, rows, "
            "columns]`.", (1, 1), _blocks_rule, lambda c: block_diagonal(c.t, c.args[0]),
            linear=(0,), zero="all", eye="eye", orthogonal="operands",
            fast=Fast(_through_blocks, _blocks_cost)),
    Builtin("tensor_train", "tensor_train(T_1, ..., T_n)", "The matrix-product operator of cores "
            "`[r, rows, columns, r']`: its rows are all combinations of the cores' rows, and so "
            "its columns; the outermost bonds are 1.", (1, 8), _train_rule, _train,
            linear=tuple(range(8)), zero="any", fast=Fast(_through_train, _train_cost)),
)  # fmt: skip

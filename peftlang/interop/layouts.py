"""Reversible layouts: how a tensor of ours lies in an HF PEFT file, and back.

Every layout is written with differentiable tensor functions, so that gradients cross it too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class WrongLayout(ValueError):
    """A stored tensor has not the number of dimensions, or the length, that its layout says."""


@dataclass(frozen=True)
class Layout:
    """A pair of maps that undo each other.

    Attributes:
        name: For messages and the table in the documentation.
        ours: From the stored tensor to ours.
        theirs: From our tensor to the stored one.
    """

    name: str
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]


def _column(stored: Tensor) -> Tensor:
    if stored.dim() != 2 or stored.shape[1] != 1:
        raise WrongLayout("[n, 1]")
    return stored[:, 0]


def _row(stored: Tensor) -> Tensor:
    if stored.dim() != 2 or stored.shape[0] != 1:
        raise WrongLayout("[1, n]")
    return stored[0]


def _transposed(stored: Tensor) -> Tensor:
    if stored.dim() != 2:
        raise WrongLayout("a matrix")
    return stored.transpose(0, 1)


def _blocks(stored: Tensor) -> Tensor:
    """``[n, b (b - 1) / 2]`` to the skew-symmetric ``[n, b, b]`` that has it for upper triangles.

    Training from zero keeps such a matrix skew-symmetric, so that nothing is lost on the way back.
    """
    if stored.dim() != 2:
        raise WrongLayout("[blocks, b (b - 1) / 2]")
    size = (1 + math.isqrt(1 + 8 * stored.shape[1])) // 2
    if size * (size - 1) // 2 != stored.shape[1]:
        raise WrongLayout("[blocks, b (b - 1) / 2]")
    rows, columns = torch.triu_indices(size, size, 1, device=stored.device)
    made = stored.new_zeros(stored.shape[0], size, size)
    upper = made.index_put((torch.arange(len(stored))[:, None], rows, columns), stored)
    return upper - upper.transpose(1, 2)


def _triangles(own: Tensor) -> Tensor:
    """What of ``[n, b, b]`` has an effect: the upper triangle of its skew-symmetric part."""
    size = own.shape[-1]
    rows, columns = torch.triu_indices(size, size, 1, device=own.device)
    return (own[:, rows, columns] - own[:, columns, rows]) / 2


SAME = Layout("the same", lambda t: t, lambda t: t)
COLUMN = Layout("a column", _column, lambda t: t[:, None])
ROW = Layout("a row", _row, lambda t: t[None, :])
TRANSPOSED = Layout("transposed", _transposed, lambda t: t.transpose(0, 1))
TRIANGLES = Layout("upper triangles", _blocks, _triangles)
SHARED_TRIANGLE = Layout(
    "an upper triangle", lambda t: _blocks(t)[0], lambda t: _triangles(t[None])
)
KERNELS = Layout(
    "output block first",
    lambda t: t.transpose(0, 1),
    lambda t: t.transpose(0, 1),
)

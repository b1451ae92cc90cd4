"""Structured matrices written out entry by entry, from their definitions."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Sizes = dict[str, int]
Shape = tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """One structured matrix in an expression.

    Attributes:
        text: How a spec writes it.
        tensors: Shape of each tensor, in dimensions.
        rows: Its number of rows, a dimension.
        columns: Its number of columns.
        written: The dense matrix, entry by entry, of the tensors and then the sizes it names.
    """

    text: str
    tensors: dict[str, Shape]
    rows: str
    columns: str
    written: Callable[..., Tensor]
    sizes: tuple[str, ...] = ()


def from_entries(rows: int, columns: int, entry: Callable[[int, int], Tensor]) -> Tensor:
    return torch.stack([torch.stack([entry(i, j) for j in range(columns)]) for i in range(rows)])


def circulant(c: Tensor) -> Tensor:
    d = len(c)
    return from_entries(d, d, lambda i, j: c[(i - j) % d])


def skew_circulant(c: Tensor) -> Tensor:
    d = len(c)
    return from_entries(d, d, lambda i, j: c[i - j] if i >= j else -c[d + i - j])


def circulant_blocks(c: Tensor) -> Tensor:
    return torch.cat([torch.cat([circulant(part) for part in row], 1) for row in c], 0)


def displacement(g: Tensor, h: Tensor) -> Tensor:
    return sum(
        (circulant(a) @ skew_circulant(b) for a, b in zip(g, h, strict=True)),
        torch.zeros(g.shape[1], g.shape[1], dtype=g.dtype),
    )


def block_diag(blocks: Tensor) -> Tensor:
    return torch.block_diag(*blocks)


def householder(vectors: Tensor) -> Tensor:
    total = torch.eye(vectors.shape[1], dtype=vectors.dtype)
    for u in vectors:
        total = total @ (torch.eye(len(u), dtype=u.dtype) - 2 * torch.outer(u, u) / (u @ u))
    return total


def givens(blocks: Tensor) -> Tensor:
    """Each pair at its own two coordinates of the whole matrix."""
    d = len(blocks) + 1
    total, used, stride = torch.eye(d, dtype=blocks.dtype), 0, 1
    while stride < d:
        for first in range(0, d - stride, 2 * stride):
            turn = torch.eye(d, dtype=blocks.dtype)
            for a, row in enumerate((first, first + stride)):
                for b, column in enumerate((first, first + stride)):
                    turn[row, column] = blocks[used, a, b]
            total, used = turn @ total, used + 1
        stride *= 2
    assert used == len(blocks)
    return total


def banded(c: Tensor, d: int, beside: int) -> Tensor:
    total, used = torch.zeros(d, d, dtype=c.dtype), 0
    for offset in range(-beside, beside + 1):
        for i in range(d):
            if 0 <= i + offset < d:
                total[i, i + offset] = c[used]
                used += 1
    assert used == len(c)
    return total


def triangular(c: Tensor, d: int) -> Tensor:
    total, used = torch.zeros(d, d, dtype=c.dtype), 0
    for i in range(d):
        for j in range(i + 1):
            total[i, j], used = c[used], used + 1
    return total


def scatter(c: Tensor, places: Tensor, rows: int, columns: int) -> Tensor:
    total = torch.zeros(rows, columns, dtype=c.dtype)
    for value, (i, j) in zip(c, places.tolist(), strict=True):
        total[i, j] += value
    return total


def train(*cores: Tensor) -> Tensor:
    """Every entry as a product of small matrices, one of each core."""
    rows = torch.cartesian_prod(*(torch.arange(core.shape[1]) for core in cores))
    columns = torch.cartesian_prod(*(torch.arange(core.shape[2]) for core in cores))

    def entry(i: int, j: int) -> Tensor:
        total = torch.ones(1, 1, dtype=cores[0].dtype)
        for core, a, b in zip(cores, rows[i], columns[j], strict=True):
            total = total @ core[:, a, b]
        return total[0, 0]

    return from_entries(len(rows), len(columns), entry)


def butterfly(factors: Tensor) -> Tensor:
    """Liu et al. 2024, section 5: block-diagonal factors between permutations, as matrices."""
    stages, count, block, _ = factors.shape
    width, half = count * block, block // 2
    total = torch.eye(width, dtype=factors.dtype)
    for stage in range(stages):
        order = list(range(width))
        if stage:
            size = width // (count // 2**stage)
            order = []
            for start in range(0, width, size):
                chunks = [list(range(at, at + half)) for at in range(start, start + size, half)]
                order += [i for chunk in chunks[0::2] + chunks[1::2] for i in chunk]
        permute = torch.eye(width, dtype=factors.dtype)[order]
        total = permute @ torch.block_diag(*factors[stage]) @ permute.T @ total
    return total


def cayley(matrix: Tensor) -> Tensor:
    skew = (matrix - matrix.T) / 2
    eye = torch.eye(len(skew), dtype=skew.dtype)
    return (eye - skew) @ torch.linalg.inv(eye + skew)


def waves(length: int, sign: float) -> Tensor:
    steps = torch.arange(length, dtype=torch.float64)
    return torch.exp(sign * 2j * torch.pi * torch.outer(steps, steps) / length)


def spectrum(matrix: Tensor, sign: float = 1.0) -> Tensor:
    """The real part of the sum of waves, one for each entry."""
    rows, columns = matrix.shape
    return (waves(rows, sign) @ (matrix * complex(1)) @ waves(columns, sign)).real


MATRICES = (
    Matrix("diag(c)", {"c": ("d",)}, "d", "d", torch.diag),
    Matrix("circulant(c)", {"c": ("d",)}, "d", "d", circulant),
    Matrix("circulant(c)", {"c": ("p", "q", "d")}, "p * d", "q * d", circulant_blocks),
    Matrix("skew_circulant(c)", {"c": ("d",)}, "d", "d", skew_circulant),
    Matrix("symmetric_toeplitz(c)", {"c": ("d",)}, "d", "d",
           lambda c: from_entries(len(c), len(c), lambda i, j: c[abs(i - j)])),
    Matrix("toeplitz(c, p, q)", {"c": ("p + q - 1",)}, "p", "q", lambda c, p, q:
           from_entries(p, q, lambda i, j: c[i - j + q - 1]), ("p", "q")),
    Matrix("low_displacement(G, H)", {"G": ("p", "d"), "H": ("p", "d")}, "d", "d", displacement),
    Matrix("kron(A, B)", {"A": ("p", "q"), "B": ("q", "d")}, "p * q", "q * d", torch.kron),
    Matrix("block_diag(B)", {"B": ("p", "q", "d")}, "p * q", "p * d", block_diag),
    Matrix("householder(U)", {"U": ("p", "d")}, "d", "d", householder),
    Matrix("givens(R)", {"R": ("d", "2", "2")}, "d + 1", "d + 1", givens),
    Matrix("butterfly(R)", {"R": ("2", "4 * p", "2 * q", "2 * q")}, "8 * p * q", "8 * p * q",
           butterfly),
    Matrix("butterfly(R)", {"R": ("3", "4", "2", "2")}, "8", "8", butterfly),
    Matrix("banded(c, d + 2, 2)", {"c": ("5 * (d + 2) - 6",)}, "d + 2", "d + 2",
           lambda c, d: banded(c, d + 2, 2), ("d",)),
    Matrix("banded(c, d, 0)", {"c": ("d",)}, "d", "d", lambda c, d: banded(c, d, 0), ("d",)),
    Matrix("triangular(c, 2 * d)", {"c": ("d * (2 * d + 1)",)}, "2 * d", "2 * d",
           lambda c, d: triangular(c, 2 * d), ("d",)),
    Matrix("scatter(c, E, p, q)", {"c": ("d",), "E": ("d", "2")}, "p", "q", scatter, ("p", "q")),
    Matrix("tensor_train(A, B, C)", {"A": ("1", "p", "q", "d"), "B": ("d", "q", "p", "q"),
                                     "C": ("q", "2", "3", "1")}, "2 * p * q", "3 * p * q", train),
    Matrix("cayley(skew(Q))", {"Q": ("d", "d")}, "d", "d", cayley),
    Matrix("real(ifft2(scatter(c, E, p, q)))", {"c": ("d",), "E": ("d", "2")}, "p", "q",
           lambda *args: spectrum(scatter(*args)) / (args[2] * args[3]), ("p", "q")),
    Matrix("real(fft2(transpose(scatter(c, E, p, q))))", {"c": ("d",), "E": ("d", "2")}, "q", "p",
           lambda *args: spectrum(scatter(*args).T, -1.0), ("p", "q")),
    Matrix("real(ifft2(fft2(kron(A, B))))", {"A": ("p", "q"), "B": ("q", "d")}, "p * q", "q * d",
           torch.kron),
    Matrix("real(ifft2(B))", {"B": ("p", "q")}, "p", "q",
           lambda B: spectrum(B) / B.numel()),
)  # fmt: skip

"""Tensors of HF PEFT that all modules read: their shapes, their parts, and how seeds draw them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peftlang.ir.expr import Scalar

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Largest:
    """The largest sizes of the modules that an adapter targets, and the rank."""

    d_h: int
    d_x: int
    r: int


@dataclass(frozen=True)
class Common:
    """A buffer of ours whose modules all read the leading corner of one stored tensor.

    Attributes:
        key: The tensor's key in the file.
        whole: Its shape.
        corner: Shape of the corner that a module reads, from our shape and the rank.
        ours: From a corner to our buffer, given the rank.
        theirs: Back.
        repeated: The key below each module under which the file holds the tensor once more.
    """

    key: str
    whole: Callable[[Largest], Shape]
    corner: Callable[[Shape, int], Shape] = lambda own, _r: own
    ours: Callable[[Tensor, int], Tensor] = lambda corner, _r: corner
    theirs: Callable[[Tensor, int], Tensor] = lambda own, _r: own
    repeated: str | None = None


VERA_A = Common("base_model.vera_A", lambda largest: (largest.r, largest.d_x))
VERA_B = Common("base_model.vera_B", lambda largest: (largest.d_h, largest.r))


def _narrow(largest: Largest) -> Shape:
    return largest.r, 1, min(largest.d_h, largest.d_x)


def _wide(largest: Largest) -> Shape:
    bases = math.ceil(min(largest.d_h, largest.d_x) / largest.r)
    return max(largest.d_h, largest.d_x), bases, largest.r


def _columns(corner: Tensor, r: int) -> Tensor:
    """RandLoRA's B, whose stored column ``k`` meets row ``k`` of the other factor.

    That one is laid out ``[r, bases]`` where B is ``[bases, r]``; ours are both ``[bases, r]``.
    """
    wide, bases, _ = corner.shape
    return corner.reshape(wide, r, bases).transpose(1, 2).reshape(wide, bases * r)


def _bases(own: Tensor, r: int) -> Tensor:
    wide, columns = own.shape
    return own.reshape(wide, columns // r, r).transpose(1, 2).reshape(wide, columns // r, r)


RANDLORA_A = Common(
    "base_model.randlora_A",
    _narrow,
    corner=lambda own, r: (r, 1, own[1]),
    ours=lambda corner, _r: corner[:, 0],
    theirs=lambda own, _r: own[:, None],
    repeated="randlora_A",
)
RANDLORA_B = Common(
    "base_model.randlora_B",
    _wide,
    corner=lambda own, r: (own[0], own[1] // r, r),
    ours=_columns,
    theirs=_bases,
    repeated="randlora_B",
)


def vera_pair(config: Mapping[str, Any], largest: Largest) -> dict[str, Tensor]:
    """VeRA's projections, from `projection_prng_key` (``peft/tuners/vera/model.py``)."""
    generator = torch.Generator("cpu").manual_seed(int(config.get("projection_prng_key", 0)))
    pair = (VERA_A, VERA_B)
    return {each.key: _kaiming(each.whole(largest), generator, math.sqrt(2)) for each in pair}


def _kaiming(
    shape: Shape, generator: torch.Generator, gain: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform with bound ``gain sqrt(3 / fan_in)``, the fan counted as torch counts it."""
    bound = math.sqrt(3.0) * (gain / math.sqrt(math.prod(shape[1:])))
    return torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=generator)


def randlora_pair(config: Mapping[str, Any], largest: Largest) -> dict[str, Tensor]:
    """RandLoRA's projections, from `projection_prng_key` (``peft/tuners/randlora/model.py``).

    They are drawn in 16 bits, and divided by their standard deviation in 16 bits: which type
    those are, and the last digit, may differ from one machine to another.
    """
    generator = torch.Generator("cpu").manual_seed(int(config.get("projection_prng_key") or 0))
    gain = math.sqrt(2.0 / (1 + math.sqrt(5) ** 2))
    narrow, (wide, bases, rank) = _narrow(largest), _wide(largest)
    if config.get("sparse") or config.get("very_sparse"):
        least = min(largest.d_h, largest.d_x)
        sparsity = math.sqrt(least) if config.get("very_sparse") else 3
        pair = [
            _signs(torch.rand(shape, generator=generator), sparsity)
            for shape in (narrow, (wide, bases, rank))
        ]
    else:
        one = _kaiming(narrow, generator, gain, _half())
        columns = [_kaiming((wide, 1, rank), generator, gain, _half()) for _ in range(bases)]
        pair = [one, torch.cat(columns, dim=1)]
    keys = (RANDLORA_A.key, RANDLORA_B.key)
    return {key: (each / each.std()).float() for key, each in zip(keys, pair, strict=True)}


def _signs(drawn: Tensor, sparsity: float) -> Tensor:
    """-1, 0 or 1: the outer ``1 / (2 sparsity)`` of [0, 1] on each side are not zero."""
    edge = 1 / (2 * sparsity)
    return (drawn > 1 - edge).float() - (drawn < edge).float()


def _half() -> torch.dtype:
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16


def fourier_places(hypers: Mapping[str, Any], sizes: Mapping[str, int]) -> Tensor:
    """FourierFT's places ``[n, 2]``, from its seed (``peft/tuners/fourierft/layer.py``)."""
    rows, columns = sizes["d_h"], sizes["d_x"]
    generator = torch.Generator().manual_seed(int(hypers["seed"]))
    flat = torch.randperm(rows * columns, generator=generator)[: int(hypers["n"])]
    return torch.stack([flat // columns, flat % columns], dim=1)


def summing(hypers: Mapping[str, Scalar], sizes: Mapping[str, int]) -> Tensor:
    """MiSS's sum of every ``r``-th entry as a matrix ``[r, d_x]`` of zeros and ones."""
    rank, columns = int(hypers["r"]), sizes["d_x"]
    return (torch.arange(columns) % rank == torch.arange(rank)[:, None]).float()

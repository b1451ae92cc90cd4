"""Tensors of HF PEFT that all modules read: their shapes, their parts, and how seeds draw them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        dtype: The number type that the other library holds it in, whatever the file says.
    """

    key: str
    whole: Callable[[Largest], Shape]
    corner: Callable[[Shape, int], Shape] = lambda own, _r: own
    ours: Callable[[Tensor, int], Tensor] = lambda corner, _r: corner
    theirs: Callable[[Tensor, int], Tensor] = lambda own, _r: own
    dtype: torch.dtype | None = None


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
    dtype=torch.bfloat16,
)
RANDLORA_B = Common(
    "base_model.randlora_B",
    _wide,
    corner=lambda own, r: (own[0], own[1] // r, r),
    ours=_columns,
    theirs=_bases,
    dtype=torch.bfloat16,
)


def vera_pair(config: Mapping[str, Any], largest: Largest) -> dict[str, Tensor]:
    """VeRA's projections, from `projection_prng_key` (``peft/tuners/vera/model.py``)."""
    generator = torch.Generator("cpu").manual_seed(int(config.get("projection_prng_key", 0)))
    pair = (VERA_A, VERA_B)
    return {each.key: _kaiming(each.whole(largest), generator, math.sqrt(2)) for each in pair}


def _kaiming(shape: Shape, generator: torch.Generator, gain: float) -> Tensor:
    """Uniform with bound ``gain sqrt(3 / fan_in)``, the fan counted as torch counts it."""
    bound = math.sqrt(3.0) * (gain / math.sqrt(math.prod(shape[1:])))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def fourier_places(hypers: Mapping[str, Any], sizes: Mapping[str, int]) -> Tensor:
    """FourierFT's places ``[n, 2]``, from its seed (``peft/tuners/fourierft/layer.py``)."""
    rows, columns = sizes["d_h"], sizes["d_x"]
    generator = torch.Generator().manual_seed(int(hypers["seed"]))
    flat = torch.randperm(rows * columns, generator=generator)[: int(hypers["n"])]
    return torch.stack([flat // columns, flat % columns], dim=1)

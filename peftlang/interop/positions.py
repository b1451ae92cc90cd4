"""How the positions of tokens enter a model's attention: by turning queries and keys, or otherwise.

HF PEFT puts a prefix into the cache, where it takes the first positions and moves those of all
tokens by its length. Where positions only turn queries and keys (Su et al. 2021, "RoFormer"), the
products of tokens with each other depend on their distance, and those with the prefix are what
they are without the move, if its keys are turned back. That this is so, and by which angles, is
measured on the model itself; nothing is known of any architecture.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.runtime.control import disabled
from peftlang.runtime.registry import STATE

TOKENS = 24
"""How many tokens are run; keys of all heads count, so this is enough for any head's size."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How well turned keys fit and outputs agree, relative to the largest; 16-bit models less so."""
COARSE = 0.05


class Disagreement(Exception):
    """Why a prefix in the cache is none of ours on this model."""


def turns(model: nn.Module, length: int) -> list[Tensor]:
    """By what ``length`` positions turn the keys of each layer.

    Args:
        model: A causal language model, adapted or not; no adapter takes part.
        length: How many positions.

    Returns:
        A rotation ``[d_head, d_head]`` in float64 for each layer of the cache: ``R @ k`` is the key
        ``k`` of a token, moved by that many positions. The identity where positions play no part.

    Raises:
        Disagreement: positions enter otherwise.
    """
    _check_window(model)
    with _bare(model):
        here, there = (_keys(model, start) for start in (0, length))
    limit = TOLERANCE.get(here[0].dtype, COARSE)
    pairs = zip(here, there, strict=True)
    return [_fitted(one.double(), other.double(), limit) for one, other in pairs]


def cached(model: nn.Module, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """What the base computes for some tokens after a prefix that lies in the cache.

    Args:
        model: A causal language model, adapted or not; no adapter takes part.
        keys: For each layer ``[l, kv_heads, d_head]``.
        values: The same.
    """
    with _bare(model):
        ids, length = sample(model), len(keys[0])
        cache = model(input_ids=ids[:, :1].expand(1, length), use_cache=True).past_key_values
        for layer, key, value in zip(cache.layers, keys, values, strict=True):
            layer.keys = key.permute(1, 0, 2)[None].to(layer.keys)
            layer.values = value.permute(1, 0, 2)[None].to(layer.values)
        found: Tensor = model(input_ids=ids, past_key_values=cache, use_cache=True)[0]
        return found


def uncached(model: nn.Module) -> Tensor:
    """What the model computes for the same tokens, with its adapters."""
    with _quiet(model):
        found: Tensor = model(input_ids=sample(model))[0]
        return found


def check_agree(ours: Tensor, theirs: Tensor) -> None:
    """Hold two outputs against each other.

    Raises:
        Disagreement: they differ by more than rounding does.
    """
    limit = TOLERANCE.get(theirs.dtype, COARSE)
    ours, theirs = ours.double(), theirs.double()
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if not error <= limit:
        raise Disagreement(f"the model's outputs differ by {error:.1e}")


def sample(model: Any) -> Tensor:
    """Some tokens ``[1, TOKENS]``, the same each time."""
    table = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    return torch.randint(len(table), (1, TOKENS), generator=generator).to(table.device)


def _check_window(model: nn.Module) -> None:
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if window and (not kinds or kinds - {"full_attention"}):
        raise Disagreement(
            f"its attention looks back over {window} tokens, which leaves PEFT's prefix behind as "
            "the text grows, and never ours (a base of `sliding_window` = None has no such window)"
        )


def _keys(model: Any, start: int) -> list[Tensor]:
    ids = sample(model)
    places = torch.arange(start, start + TOKENS, device=ids.device)[None]
    try:
        cache = model(input_ids=ids, position_ids=places, use_cache=True).past_key_values
        layers = [layer.keys for layer in cache.layers]
    except (TypeError, AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise Disagreement("its tokens cannot be given other positions") from error
    return [each.flatten(0, -2) for each in layers]


def _fitted(here: Tensor, there: Tensor, limit: float) -> Tensor:
    """The rotation, of all ways in which coordinates may be paired, that fits best."""
    size, best, least = here.shape[-1], None, float("inf")
    for first, second in _pairings(size):
        turn = _turn(here, there, first, second)
        error = float((here @ turn.T - there).abs().max() / there.abs().max())
        if error < least:
            best, least = turn, error
    if best is None or least > limit:
        raise Disagreement(
            "its positions are learnt or enter otherwise than by turning queries and keys"
        )
    return best


def _pairings(size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Neighbours; and halves, of all coordinates or of the first ones."""
    yield torch.arange(0, size - 1, 2), torch.arange(1, size, 2)
    for turned in range(size - size % 2, 0, -2):
        yield torch.arange(turned // 2), torch.arange(turned // 2, turned)


def _turn(here: Tensor, there: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Each pair of coordinates turned by the angle that fits it best, in the mean of squares."""
    a, b, c, d = here[:, first], here[:, second], there[:, first], there[:, second]
    angles = torch.atan2((a * d - b * c).sum(0), (a * c + b * d).sum(0))
    turn = torch.eye(here.shape[-1], dtype=here.dtype, device=here.device)
    turn[first, first] = turn[second, second] = angles.cos()
    turn[first, second], turn[second, first] = -angles.sin(), angles.sin()
    return turn


@contextmanager
def _bare(model: nn.Module) -> Iterator[None]:
    with disabled(model) if STATE in model.__dict__ else nullcontext(), _quiet(model):
        yield


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """In evaluation mode and without gradients."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode

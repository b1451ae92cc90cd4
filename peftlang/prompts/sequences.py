"""The sequences that a model's modules read: which arguments hold them, and which cache."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.ir.builtins.tokens import KINDS_OF_ID

CACHES = ("past_key_values", "cache_params")
INPUTS = ("input_ids", "pixel_values", "input_features", "input_values")
"""Arguments that hold what a model reads."""


@functools.cache
def parameters(forward: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a forward by name, ``self`` left out."""
    found = list(inspect.signature(forward).parameters.values())
    return {p.name: p for p in found[1:]}


def forward_of(module: nn.Module) -> Callable[..., Any]:
    """A module's own forward, as a function of the module."""
    return type(module).forward


def named(forward: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Move positional arguments into ``kwargs``; False, and nothing moved, if one has no name."""
    own = list(parameters(forward).values())
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)
    if len(args) > len(own) or any(p.kind in kinds for p in own[: len(args)]):
        return False
    kwargs.update({p.name: value for p, value in zip(own, args, strict=False)})
    return True


def is_ids(value: Any) -> bool:
    """Whether a value can be token ids: whole numbers, ``[..., tokens]``."""
    return isinstance(value, Tensor) and not value.is_floating_point() and value.dim() > 1


def cache_of(kwargs: Mapping[str, Any]) -> Any:
    """The cache that a call brings, None without one."""
    return next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)


def is_filled(cache: Any) -> bool:
    """Whether a cache holds tokens of earlier calls."""
    if cache is None:
        return False
    if isinstance(cache, tuple):
        return bool(cache) and cache[0] is not None
    try:
        return bool(cache.get_seq_length() > 0)
    except (AttributeError, ValueError):
        states = getattr(cache, "has_previous_state", False)
        return bool(states() if callable(states) else states)


def special_ids(root: nn.Module) -> dict[str, tuple[int, ...]]:
    """The ids that a model's configuration names, by kind: ``cls_token_id`` is of kind ``cls``.

    Those of padding are no token of any sequence, so they are left out; ``special`` has all.
    """
    config = getattr(root, "config", None)
    config = getattr(config, "text_config", config)
    padding = set(_as_ids(getattr(config, "pad_token_id", None)))
    found: dict[str, tuple[int, ...]] = {}
    for kind in KINDS_OF_ID:
        ids = _as_ids(getattr(config, f"{kind}_token_id", None))
        found[kind] = tuple(value for value in ids if value not in padding)
    found["special"] = tuple(sorted({value for ids in found.values() for value in ids}))
    return found


def _as_ids(value: Any) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,)
    return tuple(value) if isinstance(value, list | tuple) else ()


def lengthened_by(value: Tensor, count: int, fill: float) -> Tensor:
    """``[..., tokens]`` with ``count`` more in front."""
    front = value.new_full((*value.shape[:-1], count), fill)
    return torch.cat([front, value], dim=-1)

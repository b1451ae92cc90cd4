"""The sequences that a model's modules read: which arguments hold them, and which cache."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.ir.builtins.tokens import KINDS_OF_ID
from peftlang.ir.plan import Site

CACHES = ("past_key_values", "cache_params")
_INPUTS = ("input_ids", "pixel_values", "input_features", "input_values")


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


def reader_of(root: nn.Module, path: str) -> str | None:
    """The innermost module around ``path`` that takes a model's input, if it takes token ids."""
    parts = path.split(".") if path else []
    for count in range(len(parts), -1, -1):
        module = root.get_submodule(".".join(parts[:count]))
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            continue
        own = parameters(forward_of(module))
        if any(name in own for name in _INPUTS):
            return ".".join(parts[:count]) if "input_ids" in own else None
    return None


def prompt_site(root: nn.Module, sites: Sequence[Site]) -> Site | None:
    """The sequence that a soft prompt lengthens: the encoder's, or the only one of token ids.

    Args:
        root: The model.
        sites: Its other sites.
    """
    for embed, path in _readers(root, sites):
        dims = {"d_h": embed.dims["d_h"], "vocab": embed.dims["vocab"]}
        if layers := _layers(embed, sites):
            dims["layers"] = layers
        assert embed.weight is not None
        return Site(
            id=f"{path}#prompt", role="prompt", path=path, side=embed.side, weight=embed.weight,
            anchors=(embed.weight,), dims=dims,
        )  # fmt: skip
    return None


def why_no_prompt(root: nn.Module) -> str:
    """Why ``prompt_site`` found nothing, as a sentence."""
    own = parameters(forward_of(root))
    other = [name for name in _INPUTS if name in own and name != "input_ids"]
    what = f"reads `{other[0]}`, which are no token ids" if other else "takes no `input_ids`"
    return (
        f"A soft prompt goes before a sequence of token ids, and this model {what}; or before one "
        "that all layers of a stack attend to, and read nothing beside that is as long."
    )


def _readers(root: nn.Module, sites: Sequence[Site]) -> Iterator[tuple[Site, str]]:
    """Embeddings of token ids, with the module that reads the ids for a stack of layers."""
    two_sided = any(site.role.startswith("cross_attn") for site in sites)
    for embed in sites:
        if embed.role != "embed" or "vocab" not in embed.dims or embed.weight is None:
            continue
        if two_sided and embed.side != "encoder":
            continue
        stacks = {s.stack for s in sites if s.role == "block" and s.side == embed.side and s.stack}
        path = _around(root, embed.path, stacks)
        if path is not None:
            yield embed, path


def _around(root: nn.Module, embed: str, stacks: set[str]) -> str | None:
    parts = embed.split(".")
    for count in range(len(parts) - 1, -1, -1):
        path = ".".join(parts[:count])
        holds = all(stack.startswith(f"{path}." if path else "") for stack in stacks)
        if holds and "input_ids" in parameters(forward_of(root.get_submodule(path))):
            return path
    return None


def _layers(embed: Site, sites: Sequence[Site]) -> int | None:
    blocks = (s.dims.get("layers") for s in sites if s.role == "block" and s.side == embed.side)
    return next((count for count in blocks if count), None)


def lengthened_by(value: Tensor, count: int, fill: float) -> Tensor:
    """``[..., tokens]`` with ``count`` more in front."""
    front = value.new_full((*value.shape[:-1], count), fill)
    return torch.cat([front, value], dim=-1)

"""Prefix tuning: one tensor of a file for the keys and values of all layers, and who agrees."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import base_parameters
from peftlang.diagnostics import PeftError
from peftlang.interop.correspondence import Form
from peftlang.interop.positions import Disagreement, cached, check_agree, turns, uncached
from peftlang.ir.plan import Site
from peftlang.runtime import registry as state

CORE = "attn.core"
KEY = "prompt_embeddings"
SAME_TURN = 1e-2
"""How far two measured rotations may be apart, in 16 bits."""

HELP = (
    "PEFT's prefix takes the first positions of the cache and moves all others; train `prefix` "
    "here anew, which moves none, or keep the adapter in PEFT"
)


def cores(sites: Sequence[Site]) -> list[Site]:
    """The self-attentions of a model, in the order of its layers."""
    return sorted((s for s in sites if s.role == CORE and s.rows is None), key=_layer)


def _layer(site: Site) -> int:
    return -1 if site.layer is None else site.layer


def split(
    stored: Tensor, forms: Sequence[Form], sites: Sequence[Site], model: nn.Module
) -> tuple[Form, list[dict[str, Tensor]]]:
    """The form that a stored prefix has on a model, and our tensors for each layer.

    Args:
        stored: ``[l, layers * 2 * kv_heads * d_head]``.
        forms: The one for models where positions play no part, then the one where they turn keys.
        sites: See ``cores``.
        model: The base.

    Raises:
        PeftError: I903, the two do not agree on this model; I907, the shape is another.
    """
    length, shape = len(stored), _shape(sites)
    with _refused("I903", "`PREFIX_TUNING` cannot be converted for this model"):
        back = [turn.T for turn in turns(model, length)]
    _check_layers(back, sites)
    wanted = (length, 2 * len(sites) * shape[0] * shape[1])
    if tuple(stored.shape) != wanted:
        raise PeftError(
            f"`{KEY}` is {list(stored.shape)}, and {len(sites)} attentions of {shape[0]} x "
            f"{shape[1]} ask for {list(wanted)}",
            code="I907",
            help="give the base model that the adapter was trained on",
        )
    parts = _parts(stored, sites)
    still = all(torch.equal(turn, torch.eye(len(turn)).to(turn)) for turn in back)
    form = forms[0] if still else forms[1]
    found = []
    for part, turn in zip(parts, back, strict=True):
        tensors = {"P_k": part[:, 0], "P_v": part[:, 1]}
        found.append(tensors if still else {**tensors, "R": turn.to(torch.float32)})
    return form, found


def joined(
    layers: Sequence[tuple[Site, Mapping[str, Tensor]]], model: nn.Module
) -> tuple[dict[str, Any], Tensor]:
    """The options and the tensor of a prefix; the reverse of ``split``.

    Args:
        layers: Each layer's site and tensors.
        model: The base; adapters take no part.

    Raises:
        PeftError: I909, some layer has no prefix, or the two do not agree on this model.
    """
    layers = sorted(layers, key=lambda each: _layer(each[0]))
    sites = [site for site, _ in layers]
    with _refused("I909", "PEFT has no such prefix for this model"):
        ahead = turns(model, len(layers[0][1]["P_k"]))
    if [_layer(site) for site in sites] != list(range(sites[0].dims["layers"])):
        raise PeftError(
            "PEFT's prefix stands in every layer, and this one in some",
            code="I909",
            help="train it `at attn.core` without a scope",
        )
    _check_layers(ahead, sites)
    parts = [_stored(*each, turn) for each, turn in zip(layers, ahead, strict=True)]
    heads, size = _shape(sites)
    options = {
        "num_layers": len(parts),
        "num_attention_heads": heads,
        "token_dim": heads * size,
        "encoder_hidden_size": heads * size,
    }
    return options, torch.stack(parts, 1).flatten(1)


def check(
    model: nn.Module,
    name: str,
    stored: Tensor,
    sites: Sequence[Site],
    trained: Mapping[str, Tensor],
    code: str,
) -> None:
    """Run both: the base after the stored prefix in its cache, and the adapted model.

    Args:
        model: With the prefix as the adapter ``name``; no other takes part.
        name: The adapter's name.
        stored: See ``split``.
        sites: See ``cores``.
        trained: Parameters of the base that the adapter trains besides.
        code: Of the error.

    Raises:
        PeftError: of that code; the outputs differ.
    """
    parts = _parts(stored.detach(), sites)
    owner = state.of(model)
    before = owner.active
    owner.activate([name])
    try:
        with _refused(code, "a prefix in PEFT's cache is none of ours on this model"):
            keys, values = ([part[:, index] for part in parts] for index in (0, 1))
            with _holding(model, trained):
                theirs = cached(model, keys, values)
            check_agree(uncached(model), theirs)
    finally:
        owner.activate(before)


def _stored(site: Site, tensors: Mapping[str, Tensor], ahead: Tensor) -> Tensor:
    """``[l, 2, kv_heads, d_head]`` of a layer's prefix."""
    keys, values = tensors["P_k"].detach(), tensors["P_v"].detach()
    ahead = ahead.to(keys.device)
    if "R" in tensors:
        if float((tensors["R"].detach().double() - ahead.T).abs().max()) > SAME_TURN:
            raise PeftError(
                f"the prefix of {site.path} is turned otherwise than this model turns its keys",
                code="I909",
                help=HELP,
            )
    elif not torch.equal(ahead, torch.eye(len(ahead)).to(ahead)):
        keys = (keys.double() @ ahead.T).to(keys.dtype)
    return torch.stack([keys, values], 1)


def _parts(stored: Tensor, sites: Sequence[Site]) -> tuple[Tensor, ...]:
    """``[l, 2, kv_heads, d_head]`` for each layer."""
    return stored.reshape(len(stored), len(sites), 2, *_shape(sites)).unbind(1)


def _shape(sites: Sequence[Site]) -> tuple[int, int]:
    dims: Mapping[str, int] = sites[0].dims if sites else {}
    return dims.get("kv_heads", 0), dims.get("d_head", 0)


def _check_layers(found: Sequence[Tensor], sites: Sequence[Site]) -> None:
    if len(found) != len(sites) or len({_shape([site]) for site in sites}) > 1:
        raise PeftError(
            f"the model's cache has {len(found)} layers of keys, and {len(sites)} attentions of "
            "one shape are seen in it",
            code="I905",
            help=HELP,
        )


@contextmanager
def _holding(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The base with other values of some parameters."""
    own = base_parameters(model)
    before = {name: own[name].data for name in values}
    try:
        for name, value in values.items():
            own[name].data = value.detach().to(before[name])
        yield
    finally:
        for name, value in before.items():
            own[name].data = value


@contextmanager
def _refused(code: str, what: str) -> Iterator[None]:
    try:
        yield
    except Disagreement as why:
        raise PeftError(f"{what}: {why}", code=code, help=HELP) from None

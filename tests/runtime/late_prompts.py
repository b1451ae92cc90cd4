"""A reference for soft tokens that come in at a layer: the plain model's layers, run by hand.

Layers before are left as they are; those from there on are given a longer sequence, a mask made
from nothing but its definition, and positions behind those of the soft tokens.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import PRESETS

LENGTH, K, LAYERS = 3, 1, 3
LATE = f"""
method late(l: int = {LENGTH}, k: int = {K}) {{
    param P[l, d_h] ~ normal
    position    prompt in layers[k]
    composition h = concat(P, h)
}}
"""
STACKS = {
    "tiny-llama": "model.layers",
    "tiny-gpt2": "transformer.h",
    "tiny-bert": "bert.encoder.layer",
    "tiny-t5": "encoder.block",
    "tiny-opt": "model.decoder.layers",
    "tiny-vit": "vit.layers",
    "tiny-mistral": "model.layers",
}
CAUSAL = {"tiny-llama", "tiny-gpt2", "tiny-opt", "tiny-mistral"}
KEPT = {"tiny-t5"}
"""Where the soft tokens stay in what the layers hand back: a decoder reads them."""
_DEPTHS = {"tiny-gpt2": "n_layer", "tiny-t5": "num_layers"}


def deep(preset: str, **options: Any) -> Any:
    """The preset with three layers, in float64."""
    known = PRESETS[preset]
    depth = {_DEPTHS.get(preset, "num_hidden_layers"): LAYERS}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = replace(known, options={**(known.options or {}), **depth, **options}).build()
    return model.double().eval()


def prompt_of(model: nn.Module, name: str = "default") -> nn.Parameter:
    """The one parameter of an adapter."""
    (prompt,) = peftlang.adapters(model)[name].parameters().values()
    return prompt


def by_hand(preset: str, prompts: Mapping[int, Tensor], mask: Tensor, **options: Any) -> Any:
    """The plain model, whose layers are given soft tokens: ``prompts[k]`` comes in at layer k.

    Args:
        preset: A preset with layers at `STACKS`.
        prompts: ``[l, d]`` each; later ones stand before earlier ones.
        mask: Of the caller's tokens, ``[batch, tokens]``.
        options: Of its configuration.
    """
    model = deep(preset, **options)
    stack = model.get_submodule(STACKS[preset])
    for index, layer in enumerate(stack):
        count = sum(len(prompt) for k, prompt in prompts.items() if k <= index)
        if count:
            given = partial(_given, preset, model, prompts.get(index), count, mask)
            layer.register_forward_pre_hook(given, with_kwargs=True)
    if preset not in KEPT:
        total = sum(map(len, prompts.values()))
        stack[-1].register_forward_hook(lambda _module, _args, result: _without(result, total))
    return model


def _without(result: Any, count: int) -> Any:
    if isinstance(result, tuple):
        return (result[0][:, count:], *result[1:])
    return result[:, count:]


def _given(
    preset: str,
    model: Any,
    prompt: Tensor | None,
    count: int,
    mask: Tensor,
    layer: Any,
    args: Any,
    kwargs: Any,
) -> tuple[tuple[()], dict[str, Any]]:
    bound = inspect.signature(layer.forward).bind(*args, **kwargs)
    named = {**bound.arguments, **bound.arguments.pop("kwargs", {})}
    h = named["hidden_states"]
    if prompt is not None:
        named["hidden_states"] = h = torch.cat([prompt.expand(len(h), -1, -1), h], dim=1)
    tokens = h.shape[1]
    hidden = _hidden(mask, count, causal=preset in CAUSAL).to(h.dtype)
    named["attention_mask"] = hidden
    if "position_embeddings" in named:
        places = torch.arange(tokens).unsqueeze(0) - count
        named["position_embeddings"] = model.model.rotary_emb(h, places)
    if preset == "tiny-t5":
        table = model.encoder.block[0].layer[0].SelfAttention
        named["position_bias"] = table.compute_bias(tokens, tokens) + hidden
    return (), named


def _hidden(mask: Tensor, count: int, *, causal: bool) -> Tensor:
    """What is added to scores: 0 where a token is seen, else the least number."""
    ones = torch.ones(len(mask), count, dtype=torch.bool)
    seen = torch.cat([ones, mask.bool()], dim=1)[:, None, None]
    tokens = seen.shape[-1]
    square = torch.ones(tokens, tokens, dtype=torch.bool)
    seen = seen & (square.tril() if causal else square)
    return torch.zeros(seen.shape).double().masked_fill(~seen, torch.finfo(torch.float64).min)

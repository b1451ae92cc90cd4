"""LoRA on `attn.q` and `attn.v`, merged by hand into a copy of each preset's base.

Where the projections are is written down here for every preset, from the models' own sources;
nothing is asked of the compiler but the values of A and B.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build

ALPHA, RANK, LAYERS = 16.0, 4, 2


@dataclass(frozen=True)
class Place:
    """A projection: its parameter, which of its rows, and whether it is stored `[in, out]`."""

    role: str
    weight: str
    rows: tuple[int, ...] | None = None
    transposed: bool = False


def _pair(stem: str, query: str, value: str) -> Iterator[Place]:
    for layer in range(LAYERS):
        yield Place("attn.q", f"{stem.format(layer)}.{query}.weight")
        yield Place("attn.v", f"{stem.format(layer)}.{value}.weight")


def _fused(
    weight: str, query: range | list[int], value: range | list[int], *, transposed: bool = False
) -> Iterator[Place]:
    for layer in range(LAYERS):
        for role, rows in (("attn.q", query), ("attn.v", value)):
            yield Place(role, weight.format(layer), tuple(rows), transposed)


def _by_head(part: int) -> list[int]:
    return [head * 24 + part * 8 + i for head in range(4) for i in range(8)]


def _both_sides(stem: str) -> list[Place]:
    return [
        p for side in ("encoder", "decoder") for p in _pair(stem.format(side), "q_proj", "v_proj")
    ]


_LLAMA = list(_pair("model.layers.{}.self_attn", "q_proj", "v_proj"))
PLACES: dict[str, list[Place]] = {
    **dict.fromkeys(
        ("tiny-llama", "tiny-mistral", "tiny-qwen3", "tiny-gemma2", "tiny-mixtral"), _LLAMA
    ),
    "tiny-phi3": list(
        _fused("model.layers.{}.self_attn.qkv_proj.weight", range(32), range(48, 64))
    ),
    "tiny-gpt2": list(
        _fused("transformer.h.{}.attn.c_attn.weight", range(32), range(64, 96), transposed=True)
    ),
    "tiny-gpt-neox": list(
        _fused("gpt_neox.layers.{}.attention.query_key_value.weight", _by_head(0), _by_head(2))
    ),
    "tiny-opt": list(_pair("model.decoder.layers.{}.self_attn", "q_proj", "v_proj")),
    "tiny-bert": list(_pair("bert.encoder.layer.{}.attention.self", "query", "value")),
    "tiny-roberta": list(_pair("roberta.encoder.layer.{}.attention.self", "query", "value")),
    "tiny-distilbert": list(_pair("distilbert.transformer.layer.{}.attention", "q_lin", "v_lin")),
    "tiny-deberta-v2": list(
        _pair("deberta.encoder.layer.{}.attention.self", "query_proj", "value_proj")
    ),
    "tiny-t5": [
        *_pair("encoder.block.{}.layer.0.SelfAttention", "q", "v"),
        *_pair("decoder.block.{}.layer.0.SelfAttention", "q", "v"),
    ],
    "tiny-bart": _both_sides("model.{}.layers.{{}}.self_attn"),
    "tiny-whisper": _both_sides("model.{}.layers.{{}}.self_attn"),
    "tiny-vit": list(_pair("vit.layers.{}.attention", "q_proj", "v_proj")),
    "tiny-clip": [
        *_pair("text_model.encoder.layers.{}.self_attn", "q_proj", "v_proj"),
        *_pair("vision_model.encoder.layers.{}.self_attn", "q_proj", "v_proj"),
    ],
    "tiny-transformer-encoder": list(
        _fused("encoder.layers.{}.self_attn.in_proj_weight", range(32), range(64, 96))
    ),
    "tiny-mlp": list(_pair("body.{}.mixing", "wants", "carries")),
}
"""Self-attention's queries and values. `tiny-mamba` has none."""

TEXT = {"input_ids"}
DECODERS = (
    "tiny-llama",
    "tiny-mistral",
    "tiny-qwen3",
    "tiny-gemma2",
    "tiny-phi3",
    "tiny-gpt2",
    "tiny-gpt-neox",
    "tiny-opt",
    "tiny-mixtral",
)
TWO_SIDED = ("tiny-t5", "tiny-bart", "tiny-whisper")


def batch(preset: str, *, rows: int = 2, tokens: int = 7, seed: int = 0) -> dict[str, Any]:
    """Random inputs; the last row of token ids ends with two paddings."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length: int = tokens) -> Tensor:
        return torch.randint(3, 160, (rows, length), generator=generator)

    def noise(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator)

    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[-1, -2:] = 0
    if preset == "tiny-mlp":
        return {"features": noise(tokens, 20)}
    if preset == "tiny-transformer-encoder":
        return {"input_ids": ids()}
    if preset == "tiny-vit":
        return {"pixel_values": noise(3, 16, 16)}
    if preset == "tiny-whisper":
        return {"input_features": noise(20, 48), "decoder_input_ids": ids()}
    made: dict[str, Any] = {"input_ids": ids(), "attention_mask": mask}
    if preset == "tiny-clip":
        made["pixel_values"] = noise(3, 16, 16)
    if preset in TWO_SIDED:
        made["decoder_input_ids"] = ids(tokens - 2)
    return made


def adapted(
    preset: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32, **options: Any
) -> nn.Module:
    """A preset with a LoRA whose B is not zero."""
    base = build(preset, attn_implementation=attention).to(dtype)  # type: ignore[arg-type]
    model: nn.Module = peftlang.compile(base, "lora", r=RANK, alpha=ALPHA, **options)
    randomise(model)
    return model


def randomise(model: nn.Module, seed: int = 3, scale: float = 0.3) -> None:
    """Give every B values."""
    generator = torch.Generator().manual_seed(seed)
    for view in peftlang.adapters(model).values():
        for name, tensor in view.parameters().items():
            if name.endswith(".B"):
                tensor.data.copy_(scale * torch.randn(tensor.shape, generator=generator))


def matrices(model: nn.Module, place: Place, name: str = "default") -> tuple[nn.Parameter, ...]:
    """A and B at a place."""
    view = peftlang.adapters(model)[name]
    (site,) = (s for s in view.sites if (s.role, s.weight) == (place.role, place.weight))
    (placement,) = view.plan.placements
    groups, parameters = placement.tensors[site.id], view.parameters()
    return parameters[groups["A"]], parameters[groups["B"]]


def merged(
    model: nn.Module, preset: str, attention: str = "sdpa", names: tuple[str, ...] = ("default",)
) -> nn.Module:
    """A plain base with W + (alpha / r) B A written into its weights; these train."""
    weight = next(model.parameters())
    base = copy.deepcopy(build(preset, attn_implementation=attention)).to(weight.dtype)  # type: ignore[arg-type]
    base.requires_grad_(requires_grad=False)
    with torch.no_grad():
        for name in names:
            for place in PLACES[preset]:
                a, b = matrices(model, place, name)
                view = rows_of(base.get_parameter(place.weight), place)
                view += ALPHA / RANK * (b @ a)
                _put(base.get_parameter(place.weight), place, view)
    for place in PLACES[preset]:
        base.get_parameter(place.weight).requires_grad_()
    return base.train(model.training)


def rows_of(weight: Tensor, place: Place) -> Tensor:
    """The place's rows, `[d_h, d_x]`: a copy."""
    whole = weight.T if place.transposed else weight
    return whole.clone() if place.rows is None else whole[list(place.rows)]


def _put(weight: Tensor, place: Place, rows: Tensor) -> None:
    whole = weight.T if place.transposed else weight
    whole[list(place.rows) if place.rows is not None else slice(None)] = rows


def gradients_by_hand(
    reference: nn.Module, model: nn.Module, place: Place
) -> tuple[Tensor, Tensor]:
    """Gradients of A and B from that of the merged weight, by the chain rule."""
    a, b = matrices(model, place)
    found = reference.get_parameter(place.weight).grad
    assert found is not None
    slope = rows_of(found, place) * (ALPHA / RANK)
    return b.detach().T @ slope, slope @ a.detach().T


def output_of(result: Any) -> Tensor:
    """The tensor that a model is run for."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, tuple):
        return output_of(result[0])
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if getattr(result, name, None) is not None:
            return output_of(getattr(result, name))
    return output_of(result[0])


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest wanted value."""
    assert found.shape == wanted.shape
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))

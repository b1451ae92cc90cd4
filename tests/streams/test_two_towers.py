"""Methods in both of CLIP's towers, against the same in plain PyTorch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

import peftlang
from peftlang.models import build
from tests.runtime.virtual_tokens import ids

PRESET, LENGTH, WIDTH, R = "tiny-clip", 2, 8, 4
TOWERS = ("text_model", "vision_model")


def given() -> dict[str, Tensor]:
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return {"pixel_values": pixels, "input_ids": ids()}


def answer(model: Any) -> Tensor:
    found: Tensor = model(**given()).logits_per_image
    return found


def adapted(spec: str, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """The preset with a spec whose tensors are not where they start."""
    model = peftlang.compile(build(PRESET), spec, **options)
    tensors = peftlang.adapters(model)["default"].parameters()
    made = torch.Generator().manual_seed(2)
    for tensor in tensors.values():
        tensor.data += 0.2 * torch.randn(tensor.shape, generator=made)
    return model, dict(tensors)


def same_gradients(tensors: dict[str, Tensor], ours: Any, theirs: Any) -> None:
    for name, got, wanted in zip(tensors, ours, theirs, strict=True):
        assert wanted.abs().max() > 0, name
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4, msg=name)


def cpe_clip(tensors: dict[str, Tensor], tower: str, layer: int) -> Tensor:
    at = f"language_vision.shared.{tower}_encoder_layers"
    return linear(
        tensors[f"language_vision.shared.block.{layer}.G"], tensors[f"{at}.V"], tensors[f"{at}.b"]
    )


def mmrl(tensors: dict[str, Tensor], tower: str, layer: int) -> Tensor:
    A, B, b = (tensors[f"space.{tower}.encoder.layers.{layer}.block.{name}"] for name in "ABb")
    P = tensors[f"space.shared.{tower}_encoder_layers.P"]
    return linear(tensors["space.shared.R"], P + A @ B, b)


@pytest.mark.parametrize(
    ("tokens", "options"), [(cpe_clip, {"d_g": WIDTH}), (mmrl, {"d_r": WIDTH, "beta": 1.0})]
)
def test_tokens_of_both_towers_are_deep_prompts(tokens: Any, options: dict[str, Any]) -> None:
    """What those do is compared with hooks in `tests/runtime/test_rooms.py`.

    Soft tokens of text are given the model's positions with the words, before the first layer.
    """
    model, tensors = adapted(tokens.__name__, l=LENGTH, **options)
    plain, prompts = adapted("deep_prompts", l=LENGTH)
    places = {
        f"{use}.{tower}.{place}.P": (tower, layer)
        for tower in TOWERS
        for use, place, layer in (
            ("first_prompt", "prompt" if tower == "text_model" else "encoder.prompt", 0),
            ("next_prompt", "encoder.layers.1.block", 1),
        )
    }
    assert set(places) == set(prompts)
    made = [tokens(tensors, *places[name]) for name in prompts]
    for prompt, value in zip(prompts.values(), made, strict=True):
        prompt.data.copy_(value.detach())
    positions = build(PRESET).get_submodule("text_model.embeddings.position_embedding").weight
    prompts["first_prompt.text_model.prompt.P"].data -= positions.detach()[:LENGTH]
    found, wanted = answer(model), answer(plain)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    slopes = torch.autograd.grad(wanted.square().sum(), list(prompts.values()))
    theirs = torch.autograd.grad(made, list(tensors.values()), slopes)
    ours = torch.autograd.grad(found.square().sum(), list(tensors.values()))
    same_gradients(tensors, ours, theirs)


def per_head(tokens: Tensor, weight: Tensor) -> Tensor:
    """``[batch, heads, tokens, e]`` of tokens ``[batch, tokens, r]`` by ``[heads, e, r]``."""
    return linear(tokens, weight.flatten(0, 1)).unflatten(-1, weight.shape[:2]).transpose(1, 2)


class Bridged:
    """The plain preset with a bridge on hooks, called until every layer has read what it reads.

    A tower is run after the other, so what a layer reads is what the other tower's layer made in
    the call before; none of it goes round in circles.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.model: Any = build(PRESET).requires_grad_(False)
        self.tensors, self.made, self.states = tensors, dict[Any, Tensor](), dict[str, Tensor]()
        for tower in TOWERS:
            layers: Any = self.model.get_submodule(f"{tower}.encoder.layers")
            for layer, block in enumerate(layers):
                block.register_forward_hook(self.bridge(tower, layer))

    def bridge(self, tower: str, layer: int) -> Any:
        reads_text = tower == "vision_model"
        source = ("text_model", layer) if reads_text else ("vision_model", layer - 1)
        use = "to_image" if reads_text else "to_text"

        def after(_module: nn.Module, _given: Any, h: Tensor) -> Tensor:
            at = f"{use}.{tower}.encoder.layers.{layer}.block"
            if f"{at}.D" in self.tensors and source in self.made:
                D, T, Q, K, V, back, U = (self.tensors[f"{at}.{name}"] for name in "DTQKVOU")
                before = self.states.get(tower, torch.zeros(R)) if layer else torch.zeros(R)
                y = layer_norm(linear(h, D) + before, (R,))
                self.states[tower] = y
                z = linear(self.made[source], T)
                heads = scaled_dot_product_attention(per_head(y, Q), per_head(z, K), per_head(z, V))
                h = h + linear(y * linear(heads.transpose(1, 2).flatten(2), back), U)
            self.made[tower, layer] = h
            return h

        return after

    def answer(self) -> Tensor:
        for _ in range(2 * len(TOWERS)):
            self.states.clear()
            found = answer(self.model)
        return found


def test_a_bridge_reads_what_the_other_tower_makes() -> None:
    model, tensors = adapted("bridger", m=2, e=R // 2)
    found, wanted = answer(model), Bridged(tensors).answer()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(found.square().sum(), list(tensors.values()))
    theirs = torch.autograd.grad(wanted.square().sum(), list(tensors.values()))
    same_gradients(tensors, ours, theirs)

"""A prefix in every attention is a cache that is filled before the first token."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import peftlang
from peftlang.models import build
from tests.architectures.by_hand import batch, distance

CLOSE = 2e-5
LENGTH = 3


@pytest.fixture(
    scope="module",
    params=[("tiny-llama", "sdpa"), ("tiny-llama", "eager"), ("tiny-gpt2", "sdpa")],
    ids="-".join,
)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    preset, attention = request.param
    base = build(preset, attn_implementation=attention)
    reference = copy.deepcopy(base)
    model = peftlang.compile(base, "prefix", l=LENGTH)
    for name, tensor in sorted(peftlang.adapters(model)["default"].parameters().items()):
        seed = sum(name.encode())
        tensor.data.normal_(generator=torch.Generator().manual_seed(seed))
    for one in (model, reference):
        one.generation_config.pad_token_id = 0  # type: ignore[union-attr]
        one.generation_config.eos_token_id = None  # type: ignore[union-attr]
    return model, reference


def filled(model: nn.Module, rows: int) -> DynamicCache:
    """A cache that holds the prefixes of every layer, `[rows, heads, prefix, d_head]`."""
    view = peftlang.adapters(model)["default"]
    (placement,) = view.plan.placements
    cache = DynamicCache()
    for site in view.sites:
        names = placement.tensors[site.id]
        keys, values = (view.tensors()[names[n]].detach().transpose(0, 1) for n in ("P_k", "P_v"))
        assert site.layer is not None
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), site.layer)
    return cache


def reference_logits(pair: tuple[nn.Module, nn.Module], ids: Tensor, mask: Tensor) -> Tensor:
    """The base after the prefix, whose tokens take no positions."""
    model, reference = pair
    rows, count = ids.shape
    whole = torch.cat([torch.ones(rows, LENGTH, dtype=torch.long), mask], dim=1)
    with torch.no_grad():
        found: Tensor = reference(
            input_ids=ids,
            attention_mask=whole,
            past_key_values=filled(model, rows),
            position_ids=torch.arange(count).expand(rows, -1),
        ).logits
    return found


@pytest.mark.parametrize(("rows", "padding"), [(1, "none"), (3, "left"), (3, "right")])
def test_forward(pair: tuple[nn.Module, nn.Module], rows: int, padding: str) -> None:
    ids = batch("tiny-llama", rows=rows)["input_ids"]
    mask = torch.ones_like(ids)
    if padding != "none":
        mask[-1, :2] = 0
    mask = mask.flip(1) if padding == "right" else mask
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    given["position_ids"] = torch.arange(ids.shape[1]).expand(rows, -1)
    wanted = reference_logits(pair, ids, mask)
    with torch.no_grad():
        for cache in (False, True):
            found = pair[0](**given, use_cache=cache).logits
            assert distance(found[mask.bool()], wanted[mask.bool()]) < CLOSE
        if padding == "none":
            found = pair[0](input_ids=ids).logits
            assert distance(found, wanted) < CLOSE


def test_generate_with_left_padding(pair: tuple[nn.Module, nn.Module]) -> None:
    model, _ = pair
    ids = batch("tiny-llama")["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    options = {"max_new_tokens": 5, "do_sample": False}
    found = model.generate(input_ids=ids, attention_mask=mask, **options)  # type: ignore[operator]
    for row, start in enumerate((0, 3)):
        own = ids[row : row + 1, start:]
        for _ in range(5):
            logits = reference_logits(pair, own, torch.ones_like(own))
            own = torch.cat([own, logits[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(found[row, start:], own[0])
    plain = model.generate(  # type: ignore[operator]
        input_ids=ids, attention_mask=mask, use_cache=False, **options
    )
    assert torch.equal(plain, found)


def test_gradients_are_those_of_the_cache(pair: tuple[nn.Module, nn.Module]) -> None:
    model, reference = pair
    ids = batch("tiny-llama")["input_ids"]
    cache = filled(model, 2)
    leaves = {}
    for index, layer in enumerate(cache.layers):
        layer.keys = layer.keys.clone().requires_grad_()
        layer.values = layer.values.clone().requires_grad_()
        leaves[index] = layer.keys, layer.values
    out = reference(
        input_ids=ids, past_key_values=cache, position_ids=torch.arange(7).expand(2, -1)
    )
    out.logits.square().mean().backward()
    model(input_ids=ids).logits.square().mean().backward()
    view = peftlang.adapters(model)["default"]
    (placement,) = view.plan.placements
    for site in view.sites:
        assert site.layer is not None
        for leaf, name in zip(leaves[site.layer], ("P_k", "P_v"), strict=True):
            tensor = view.parameters()[placement.tensors[site.id][name]]
            assert tensor.grad is not None
            assert leaf.grad is not None
            assert distance(tensor.grad.transpose(0, 1), leaf.grad.sum(0)) < 50 * CLOSE
    model.zero_grad()

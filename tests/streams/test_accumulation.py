"""Taps and carried states belong to one call: micro-batches add up to their batch."""

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
SPEC = """
method side(r: int = 4) {
    tap   e[d_h] = embed.h
    tap   g[d_h] = attn.h in layers[0]
    carry s[d_h] ~ e
    param D[r, d_h] ~ normal(std = 0.3)
    param U[d_h, r] ~ normal(std = 0.3)

    position block
    let next = s + U @ relu(D @ (s + g))
    composition s = next
    composition h = h + next
}
"""


def accumulated(model: nn.Module, batches: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Gradients of the mean loss, after one backward pass for each batch."""
    model.zero_grad()
    for ids in batches:
        (model(input_ids=ids, labels=ids).loss / len(batches)).backward()
    found = peftlang.adapters(model)["default"].parameters()
    return {n: p.grad.clone() for n, p in found.items() if p.grad is not None}


def test_two_halves_are_the_whole() -> None:
    model = peftlang.compile(build("tiny-llama"), SPEC).train()
    ids = torch.randint(3, 160, (4, 7), generator=torch.Generator().manual_seed(1))
    whole, halves = accumulated(model, (ids,)), accumulated(model, ids.split(2))
    assert len(whole) == 4
    for name, value in whole.items():
        assert value.any(), name
        torch.testing.assert_close(halves[name], value, rtol=1e-4, atol=1e-6)

"""One adapter after another on one model, one kind of call after another: nothing is stale."""

import pytest
import torch
from torch import Tensor

import peftlang
from peftlang.models import build

IDS = torch.arange(3, 15).reshape(2, 6)


def method(factor: str, position: str = "attn.q, ffn.down") -> str:
    return f"""method m {{
        param v[d_h] ~ normal
        position {position}
        composition h = h + {factor} * v
    }}"""


def fresh(spec: str, ids: Tensor) -> Tensor:
    model = peftlang.compile(build("tiny-llama").eval(), spec)
    return model(input_ids=ids).logits


def test_another_adapter_of_the_same_name() -> None:
    model = peftlang.compile(build("tiny-llama").eval(), "lora", adapter_name="first")
    base = build("tiny-llama").eval()(IDS).logits
    for factor in ("0.5", "2"):
        peftlang.compile(model, method(factor), adapter_name="other")
        peftlang.set_active(model, "other")
        assert torch.equal(model(input_ids=IDS).logits, fresh(method(factor), IDS))
        model(input_ids=IDS).logits.sum().backward()
        assert all(
            p.grad is not None for p in peftlang.adapters(model)["other"].parameters().values()
        )
        peftlang.remove(model, "other")
        assert torch.equal(model(input_ids=IDS).logits, base)
    peftlang.set_active(model, "first")
    assert torch.equal(model(input_ids=IDS).logits, base)


@pytest.mark.parametrize("clause", ["tokens(first = 1)", "tokens(last = 2)"])
def test_lengths_are_those_of_each_call(clause: str) -> None:
    spec = method(clause, "block")
    model = peftlang.compile(build("tiny-llama").eval(), spec)
    longer = torch.arange(3, 21).reshape(2, 9)
    for ids in (IDS, longer, longer[:, :7], IDS):
        torch.testing.assert_close(model(input_ids=ids).logits, fresh(spec, ids))


def test_grids_of_patches_are_those_of_each_image() -> None:
    images = [torch.randn(1, 3, *size) for size in ((16, 24), (16, 32), (24, 16))]
    spec = """method c {
        param K[d_h, 3, 3] ~ normal(std = 0.1)
        position attn
        composition h = h + conv2(h, K)
    }"""
    model = peftlang.compile(build("tiny-vit").eval(), spec)
    found = [model(image, interpolate_pos_encoding=True).logits for image in images]
    again = peftlang.compile(build("tiny-vit").eval(), spec)
    torch.testing.assert_close(found[-1], again(images[-1], interpolate_pos_encoding=True).logits)

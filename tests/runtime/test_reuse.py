"""What Dynamo recorded once takes other adapters: nothing is traced anew, and nothing is stale."""

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build

IDS = torch.arange(3, 15).reshape(2, 6)
EVERYWHERE = """
method gains {
    param g[d_h] ~ ones
    position    linear, norm, embed
    composition h = g * h
}
"""


def method(factor: str, name: str = "m") -> str:
    return f"""method {name} {{
        param v[d_h] ~ normal
        position attn.q, ffn.down
        composition h = h + {factor} * v
    }}"""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Every module is a door, so that no adapter brings one that is new."""
    return peftlang.compile(build("tiny-llama").eval(), EVERYWHERE, adapter_name="gains")


def recorded(model: nn.Module) -> int:
    from peftlang.runtime.adapted import of

    return of(model).backend.graphs


def fresh(spec: str, ids: Tensor) -> Tensor:
    model = peftlang.compile(build("tiny-llama").eval(), spec)
    return model(input_ids=ids).logits


def test_another_adapter_needs_no_other_recording(model: nn.Module) -> None:
    model(input_ids=IDS)
    before = recorded(model)
    for factor in ("0.5", "2"):
        # The same name, another method: what the first one compiled is not used again.
        peftlang.compile(model, method(factor), adapter_name="other")
        peftlang.set_active(model, "other")
        assert torch.equal(model(input_ids=IDS).logits, fresh(method(factor), IDS))
        model(input_ids=IDS).logits.sum().backward()
        assert all(
            p.grad is not None for p in peftlang.adapters(model)["other"].parameters().values()
        )
        peftlang.remove(model, "other")
    assert recorded(model) == before
    peftlang.set_active(model, "gains")
    assert torch.equal(model(input_ids=IDS).logits, build("tiny-llama").eval()(IDS).logits)
    assert recorded(model) == before


@pytest.mark.parametrize("clause", ["tokens(first = 1)", "tokens(last = 2)"])
def test_lengths_are_those_of_the_call_that_brings_the_adapter(
    model: nn.Module, clause: str
) -> None:
    longer = torch.arange(3, 21).reshape(2, 9)
    peftlang.set_active(model, "gains")
    for ids in (IDS, longer, longer[:, :8]):
        model(input_ids=ids)
    before = recorded(model)
    spec = method(clause).replace("attn.q, ffn.down", "block")
    peftlang.compile(model, spec, adapter_name="tokens")
    peftlang.set_active(model, "tokens")
    for ids in (IDS, longer, longer[:, :7]):
        torch.testing.assert_close(model(input_ids=ids).logits, fresh(spec, ids))
    assert recorded(model) == before
    peftlang.remove(model, "tokens")


def test_a_mode_that_an_adapter_asks_for_is_noticed_where_no_door_was() -> None:
    model = peftlang.compile(build("tiny-llama").eval(), "lora", adapter_name="first")
    model(input_ids=IDS)
    before = recorded(model)
    peftlang.compile(model, method("1").replace("attn.q", "ffn.up"), adapter_name="second")
    peftlang.set_active(model, "second")
    model(input_ids=IDS)
    assert recorded(model) > before, "its sites are doors now, and their modes are looked at"


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

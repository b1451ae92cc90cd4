"""Soft tokens that are replaced before each layer, against hooks on longer inputs."""

from typing import Any

import pytest
import torch
from torch import nn

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build
from tests.runtime.virtual_tokens import extended, left_padded, with_virtual


def test_each_layer_is_given_its_own_soft_tokens() -> None:
    model: Any = peftlang.compile(build("tiny-llama"), "deep_prompts", l=4)
    first, second = peftlang.adapters(model)["default"].parameters().values()
    reference: Any = extended("tiny-llama", first)
    rows, mask = left_padded()

    def replaced(_module: nn.Module, args: Any) -> Any:
        h = args[0]
        if h.shape[1] < 5:
            return args
        return (torch.cat([second.expand(len(h), -1, -1), h[:, 4:]], dim=1), *args[1:])

    reference.model.layers[1].register_forward_pre_hook(replaced)
    longer, seen = with_virtual(rows, mask)
    found = model(rows, attention_mask=mask).logits
    wanted = reference(longer, attention_mask=seen).logits[:, 4:, :160]
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(found[mask.bool()].square().sum(), second)
    (same,) = torch.autograd.grad(wanted[mask.bool()].square().sum(), second)
    torch.testing.assert_close(gradient, same, rtol=1e-3, atol=1e-4)
    fixed: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    fixed |= {"attention_mask": mask, "pad_token_id": 0}
    assert torch.equal(
        model.generate(rows, **fixed), model.generate(rows, use_cache=False, **fixed)
    )


NEXT = """\
method next(l: int = 4) {
    param P[l, d_x] ~ normal
    position block
    composition x = x + soft(l) @ P
}
"""


def test_soft_tokens_have_to_be_there() -> None:
    model: Any = peftlang.compile(build("tiny-llama"), NEXT)
    with pytest.raises(PeftError) as caught:
        model(left_padded()[0])
    assert caught.value.code == "R518"
    with pytest.raises(PeftError) as caught:
        peftlang.compile(build("tiny-t5"), NEXT)
    assert caught.value.code == "S415"


@pytest.mark.parametrize(
    ("position", "width", "change"),
    [("block", "d_x", "x = x + G @ x"), ("attn", "d_h", "h = h + G @ resid")],
)
def test_the_first_layer_reads_the_soft_tokens(position: str, width: str, change: str) -> None:
    """What a method reads or writes there is the sequence with its virtual tokens."""
    model: Any = peftlang.compile(
        build("tiny-llama"),
        f"""
        method front(l: int = 4) {{
            param P[l, d_h] ~ normal
            position prompt
            composition h = concat(P, h)
        }}
        method m {{ param G[{width}, {width}] ~ normal position {position} composition {change} }}
        adapter both {{
            front() at prompt
            m()     at {position} in layers[0]
        }}""",
    )
    named = peftlang.adapters(model)["default"].parameters()
    prompt, gain = (next(v for k, v in named.items() if k.endswith(n)) for n in (".P", ".G"))
    reference: Any = extended("tiny-llama", prompt)
    layer, came = reference.model.layers[0], []

    def reads(_module: nn.Module, args: Any) -> Any:
        came.append(args[0])
        return (args[0] + args[0] @ gain.T, *args[1:]) if position == "block" else None

    layer.register_forward_pre_hook(reads)
    if position == "attn":
        layer.self_attn.register_forward_hook(
            lambda _m, _a, out: (out[0] + came[-1] @ gain.T, *out[1:])
        )
    rows, mask = left_padded()
    longer, seen = with_virtual(rows, mask)
    found = model(rows, attention_mask=mask).logits
    wanted = reference(longer, attention_mask=seen).logits[:, 4:, :160]
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-4, atol=1e-5)

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

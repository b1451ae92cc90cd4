"""A change that reads no hidden state is the same for every token, and is there for each."""

import pytest
import torch

import peftlang
from peftlang.models import build

SPEC = """method m {{
    param c[{dims}] ~ zeros
    position    {position}
    composition {target} = c
}}"""


@pytest.mark.parametrize(
    ("position", "target", "dims"),
    [
        ("attn.q", "h", "d_h"),
        ("attn.q", "x", "d_x"),
        ("attn.core", "q", "heads, d_head"),
        *((position, "h", "d_h") for position in ("attn.o", "ffn", "head", "norm", "embed")),
    ],
)
def test_it_is_what_zero_times_the_value_gives(position: str, target: str, dims: str) -> None:
    spec = SPEC.format(position=position, target=target, dims=dims)
    ids = torch.arange(3, 11).reshape(2, 4)
    constant = peftlang.compile(build("tiny-llama"), spec)
    product = peftlang.compile(build("tiny-llama"), spec.replace("= c", f"= c + 0 * {target}"))
    for model in (constant, product):
        for value in peftlang.adapters(model)["default"].parameters().values():
            value.data.copy_(torch.linspace(-1, 1, value.numel()).view(value.shape))
    found = constant(input_ids=ids).logits
    assert found.shape == (2, 4, 160)
    torch.testing.assert_close(found, product(input_ids=ids).logits)

"""At an embedding every function of a row and of its id is a change of the table."""

import pytest
import torch

import peftlang
from peftlang.models import build

SPEC = """
method rows(i: int = 3) {{
    {input}
    param g[d_h] ~ normal
    position    embed
    composition h = {value}
}}
"""


@pytest.mark.parametrize(
    "value",
    ["h + relu(g * h)", "norm(h) * g", "h + token_is(i) * (g - h)", "h + token_is(i, 5) * g * h"],
)
def test_a_function_of_the_row_is_merged(value: str) -> None:
    text = SPEC.format(value=value, input="")
    model = build("tiny-llama")
    ids = torch.tensor([[1, 3, 5, 3], [5, 4, 3, 2]])
    peftlang.compile(model, text)
    expected = model(input_ids=ids).logits.detach()
    merged = peftlang.merge(model)
    torch.testing.assert_close(merged(input_ids=ids).logits, expected)
    assert not torch.allclose(build("tiny-llama")(input_ids=ids).logits, expected)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("h + g * pool(h, causal = false)", "`pool` depends on where a token stands"),
        ("h + tokens(first = 1) * g", "`tokens` depends on where a token stands"),
        ("h + g * c", "it depends on `c`, which each call supplies"),
    ],
)
def test_what_is_no_function_of_the_row_is_refused(value: str, reason: str) -> None:
    text = SPEC.format(value=value, input="input c[d_h] : float" if " c" in value else "")
    model = build("tiny-llama")
    peftlang.compile(model, text)
    with pytest.raises(peftlang.PeftError, match=reason):
        peftlang.merge(model)

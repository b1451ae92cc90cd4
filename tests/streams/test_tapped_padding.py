"""A tapped sequence has padding of its own, which no function over its length counts."""

import pytest
import torch

import peftlang
from peftlang.models import build
from tests.methods import harness

SPEC = """
method m(r: int = 3) {
    tap   y[n, d_h] = cross_attn.k.x
    param D[r, d_h] ~ normal(std = 0.3)
    param V[r, d_h] ~ normal(std = 0.3)

    position cross_attn
    let z = y @ transpose(V)
    let a = softmax(z @ (D @ h), over n)
    composition h = h + a @ y + MORE
}
"""


@pytest.mark.parametrize(
    "more", ["sum(y, over n)", "mean(y, over n)", "max(y - 3, over n)", "norm(y - 3, over n)"]
)
def test_a_row_is_what_it_is_without_the_padding(more: str) -> None:
    model = peftlang.compile(build("tiny-t5"), SPEC.replace("MORE", more))
    both = harness.batch("tiny-t5")
    alone = {name: value[1:] for name, value in both.items()}
    alone |= {n: alone[n][:, : harness.SHORT] for n in ("input_ids", "attention_mask")}
    assert both["input_ids"].shape[1] > harness.SHORT
    with torch.no_grad():
        wanted, got = model(**alone).logits, model(**both).logits[1:]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)

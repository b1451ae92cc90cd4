"""Whether tokens see later ones is read off the attention product, however its flag is given."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from peftlang.pipeline import survey

MASK = nn.Transformer.generate_square_subsequent_mask(5)

CALLS: dict[str, Any] = {
    "by name": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True),
    "by position": lambda q, k, v: functional.scaled_dot_product_attention(
        q, k, v, None, 0.0, True
    ),
    "not": lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, None, 0.0, False),
    "not said": functional.scaled_dot_product_attention,
}


class Attention(nn.Module):
    def __init__(self, product: Any) -> None:
        super().__init__()
        self.product = product
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        return x + self.o(self.product(q, k, v).transpose(1, 2).flatten(2))


class Layered(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def sees(model: nn.Module) -> set[str | None]:
    found = survey(model, {"x": torch.ones(2, 5, 8)}).sites
    return {site.sees for site in found if site.role == "attn.core"}


@pytest.mark.parametrize("given", CALLS)
def test_the_flag_of_a_fused_product(given: str) -> None:
    seen = sees(Layered(Attention(CALLS[given])))
    assert seen == ({"earlier"} if given.startswith("by") else {"all"})


class OfTorch(nn.Module):
    """``nn.MultiheadAttention``, which gives its flag to the product by position."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x, x, x, need_weights=False, **self.options)[0]


def test_the_flag_of_torchs_own_module() -> None:
    causal = Layered(OfTorch(attn_mask=MASK, is_causal=True)).train()
    assert sees(causal) == {"earlier"}
    assert sees(Layered(OfTorch()).train()) == {"all"}

"""A state that starts from nothing is nothing, whatever the hidden state is."""

import torch
from torch import Tensor, nn

import peftlang

SPEC = """
method counted {
    param g[d_h] ~ ones
    carry y[d_h] ~ 0
    position    linear, head
    composition h = h + y
    composition y = y + g
}
"""


class Model(nn.Module):
    """The first layer's output is infinite in one place, and finite again before the next."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        with torch.no_grad():
            self.layers[0].bias[0] = float("inf")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.layers[0](x)
        return h, self.layers[1](h.nan_to_num(posinf=1.0))

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(2, 3, 8)}


def test_an_infinite_hidden_state_makes_no_nan_of_a_state() -> None:
    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, 3, 8)
    first, second = model(x)
    peftlang.compile(model, SPEC)
    assert len(peftlang.adapters(model)["default"].sites) == 2
    here, there = model(x)
    assert torch.isinf(here[..., 0]).all()
    assert torch.equal(here, first)
    torch.testing.assert_close(there, second + 1)

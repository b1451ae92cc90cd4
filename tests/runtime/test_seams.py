"""A module whose operations are changed one by one, and what acts inside of it."""

import torch
from torch import Tensor, nn

import peftlang

INNER = """method inner {
    param A[r, d_x] ~ normal(std = 0.3)
    param B[d_h, r] ~ normal(std = 0.3)
    position    attn.q
    composition h = h + B @ (A @ x)
}
""".replace("inner {", "inner(r: int = 2) {")
SPEC = """
method scaled {
    param l[heads] ~ uniform(low = 0.5, high = 2)
    position    attn.core
    composition h = l * h
}
"""


class Attention(nn.Module):
    """Spelled out with the very function that adapters use: `torch.matmul`."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (4, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / 2, dim=-1)
        mixed = torch.matmul(weights, v)
        return self.o(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x)  # type: ignore[no-any-return]

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(2, 5, 16)}


def test_what_acts_within_is_not_taken_for_the_models_own() -> None:
    """The inner adapter's products come before the model's, and are of the same function."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    model = Model().eval()
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    peftlang.compile(model, SPEC, adapter_name="outer")
    peftlang.compile(model, INNER, adapter_name="inner")
    found = model(x)
    tensors = peftlang.adapters(model)["inner"].tensors()
    (a,), (b,) = ([t for n, t in tensors.items() if n.endswith(end)] for end in (".A", ".B"))
    (scale,) = peftlang.adapters(model)["outer"].tensors().values()
    reference = Model().eval()
    reference.load_state_dict(base)
    reference.attention.q.weight.data += b @ a

    def scaled(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return ((args[0].unflatten(-1, (4, 4)) * scale[:, None]).flatten(-2),)

    reference.attention.o.register_forward_pre_hook(scaled)
    torch.testing.assert_close(found, reference(x))
    outer = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(outer(x), found)

"""A stack of layers that share their code, with a place for whatever stops the compiler."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import peftlang

WIDTH, LAYERS, RANK, SCALE = 16, 4, 2, 4.0


def go_on(_: Tensor) -> None:
    """Stop nothing."""


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.between: Callable[[Tensor], None] = go_on

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        self.between(hidden)
        return x + self.second(hidden)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.between: Callable[[Tensor], None] = go_on

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            self.between(x)
        return x

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(2, WIDTH)}


def stack() -> Stack:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Stack().eval()


def adapted(**options: object) -> tuple[Stack, Stack]:
    """A stack with a LoRA on every linear layer, and one with the same changes by hand."""
    base = stack()
    reference = copy.deepcopy(base)
    model = peftlang.compile(
        base,
        "lora",
        at="linear",
        args={"r": RANK, "alpha": RANK * SCALE},
        **options,  # type: ignore[arg-type]
    )
    merge_by_hand(model, reference)
    return model, reference


def merge_by_hand(model: nn.Module, reference: nn.Module, name: str = "default") -> None:
    """Give B values, and add their changes to the reference's weights."""
    generator = torch.Generator().manual_seed(9)
    view = peftlang.adapters(model)[name]
    (placement,) = view.plan.placements
    assert len(view.sites) == 2 * LAYERS
    for site in view.sites:
        groups, tensors = placement.tensors[site.id], view.parameters()
        a, b = tensors[groups["A"]].data, tensors[groups["B"]].data
        b.copy_(torch.randn(b.shape, generator=generator))
        assert site.weight is not None
        reference.get_parameter(site.weight).data.add_(SCALE * b @ a)


def example(rows: int = 3) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1))

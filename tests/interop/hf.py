"""HF PEFT as the oracle: small bases, its adapters with random tensors, and their gradients."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Projections of several shapes, one with a bias, around a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q = nn.Linear(16, 16, bias=False)
        self.v = nn.Linear(16, 8)
        self.o = nn.Linear(8, 16)
        self.up = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.o(torch.tanh(self.v(self.norm(x))))
        x = x + self.q(x) + inner
        return x + torch.tanh(self.up(x))[..., :16]


class Toy(nn.Module):
    """A model that any method but prompts and prefixes can adapt, and quick to capture."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        found: Tensor = self.head(x)
        return found


IDS = torch.tensor([[3, 7, 11, 2, 19], [5, 1, 0, 9, 4]])
INPUTS = {"ids": IDS}


def toy() -> nn.Module:
    """The same toy each time, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Toy().eval()


def trained(config: Any, base: Callable[[], nn.Module] = toy) -> Any:
    """An HF PEFT model whose trained tensors are away from where they start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base(), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def stored(model: Any, folder: Path) -> Path:
    """The folder that HF PEFT writes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


def loaded(folder: Path, base: Callable[[], nn.Module] = toy) -> Any:
    """What HF PEFT makes of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(base(), folder, is_trainable=True).eval()


def relative(left: Tensor, right: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    with torch.no_grad():
        return float((left - right).abs().max() / right.abs().max().clamp(min=1e-12))

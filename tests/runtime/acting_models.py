"""Small models, one for each kind of region that an adapter can have, and what they compute."""

from typing import Any

import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build
from tests.architectures.by_hand import batch

CASES: dict[str, tuple[str, str, str]] = {
    # name: preset, attention, spec
    "border": ("tiny-llama", "sdpa", "lora"),
    "weight": ("tiny-llama", "sdpa", "dora"),
    "operation": ("tiny-llama", "sdpa", "prefix"),
    "inside": ("tiny-t5", "eager", "prefix_gated"),
    "tokens": ("tiny-llama", "sdpa", "prompt_tuning"),
    "trained": ("tiny-llama", "sdpa", "adapter m { train weight in layers[0] }"),
    "bias": ("tiny-bert", "sdpa", "bitfit"),
}
FEW = ("border", "operation", "inside", "tokens")


def base(case: str) -> Any:
    """The model without an adapter."""
    preset, attention, _ = CASES[case]
    return build(preset, attn_implementation=attention).eval()


def adapted(case: str, seed: int = 3) -> Any:
    """The model with an adapter that changes what it computes."""
    return randomised(peftlang.compile(base(case), CASES[case][2]), seed)


def randomised(model: Any, seed: int = 3) -> Any:
    """Move every tensor that an adapter trains."""
    generator = torch.Generator().manual_seed(seed)
    for view in peftlang.adapters(model).values():
        for tensor in view.parameters().values():
            tensor.data.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model


def inputs(case: str, **sizes: int) -> dict[str, Any]:
    """Arguments of a call; the last row of the mask ends with paddings."""
    preset = CASES[case][0]
    cached = {} if preset == "tiny-bert" else {"use_cache": False}
    return batch(preset, **sizes) | cached


def logits(model: Any, given: dict[str, Any]) -> Tensor:
    """What it answers."""
    found: Tensor = model(**given).logits
    return found


class Positional(nn.Module):
    """A model that takes tensors by place and gives one."""

    def __init__(self, model: Any, given: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.names = [n for n, v in given.items() if isinstance(v, Tensor)]
        self.options = {n: v for n, v in given.items() if not isinstance(v, Tensor)}

    def forward(self, *tensors: Tensor) -> Tensor:
        named = dict(zip(self.names, tensors, strict=True))
        return self.model(**named, **self.options).logits  # type: ignore[no-any-return]


def positional(case: str, model: Any, **sizes: int) -> tuple[Positional, tuple[Tensor, ...]]:
    """The model, and its arguments, for what takes no names."""
    given = inputs(case, **sizes)
    return Positional(model, given).eval(), tensors_of(given)


def tensors_of(given: dict[str, Any]) -> tuple[Tensor, ...]:
    return tuple(v for v in given.values() if isinstance(v, Tensor))

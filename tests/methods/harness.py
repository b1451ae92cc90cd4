"""One case: a method on a preset, compiled and as a reference, run on the same batch."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build
from tests.methods.references.anatomy import ANATOMIES, Anatomy
from tests.methods.references.weights import Weights

SPECS = Path(__file__).parents[2] / "specs"
TOKENS, SHORT = 7, 5
"""Length of the batch's rows, and of the row that is padded."""

Batch = dict[str, Any]
Attention = Literal["sdpa", "eager"]


def spec(method: str) -> Path:
    return SPECS / f"{method}.peft"


def batch(preset: str) -> Batch:
    """Two rows with labels, the second one padded on the right; images have no padding."""
    generator = torch.Generator().manual_seed(1)
    if preset == "tiny-vit":
        pixels = torch.randn(2, 3, 16, 16, generator=generator)
        return {"pixel_values": pixels, "labels": torch.tensor([0, 2])}
    ids = torch.randint(3, 160, (2, TOKENS), generator=generator)
    # Some tokens have the id that whole-number arguments are cut to, so that it is chosen.
    ids[0, 2] = ids[1, 1] = ids[1, 3] = 8
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, SHORT:] = 0
    labels = ids.clone()
    if preset in {"tiny-t5", "tiny-bart"}:
        return {"input_ids": ids, "attention_mask": mask, "labels": labels[:, :SHORT].contiguous()}
    labels[mask == 0] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def base(preset: str, attention: Attention = "sdpa") -> nn.Module:
    """A preset that names its loss: where transformers has to guess, it logs, which is a break."""
    model = build(preset, attn_implementation=attention)
    if preset == "tiny-gpt2":
        model.loss_type = "ForCausalLM"  # type: ignore[assignment]
    return model


def compiled(
    preset: str, method: str, args: dict[str, Any], attention: Attention = "sdpa"
) -> tuple[nn.Module, Any]:
    """An adapted preset and its one adapter."""
    model = base(preset, attention)
    adapted = peftlang.compile(model, spec(method), **args)
    return adapted, only_adapter(adapted)


def only_adapter(model: nn.Module) -> Any:
    (adapter,) = peftlang.adapters(model).values()
    return adapter


def randomise(tensors: dict[str, Tensor], seed: int = 7, scale: float = 0.2) -> None:
    """Move every trainable tensor away from where it starts, so that nothing is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in sorted(tensors.items()):
            if tensor.requires_grad:
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(scale * noise.to(tensor.dtype))


@dataclass(frozen=True)
class Case:
    """A method on a preset.

    Attributes:
        args: Arguments of the spec, small enough for the preset.
        sites: How many sites the method has there.
        count: Adapter parameters that train, from the method's closed formula.
        more: What the reference is told beside the arguments.
        inputs: Inputs of each call beside the batch.
    """

    method: str
    preset: str
    args: dict[str, Any] = field(default_factory=dict)
    sites: int = 0
    count: int = 0
    attention: Attention = "sdpa"
    more: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def anatomy(self) -> Anatomy:
        return ANATOMIES[self.preset]

    def __str__(self) -> str:
        eager = "-eager" if self.attention == "eager" else ""
        return f"{self.method}-{self.preset.removeprefix('tiny-')}{eager}"


@dataclass
class Run:
    """What one model computed on the batch: outputs at real tokens, and gradients by name."""

    logits: Tensor
    loss: Tensor
    gradients: dict[str, Tensor | None]


def run(model: nn.Module, inputs: Batch, gradients: Callable[[], Any]) -> Run:
    """Forward and backward; logits of padded tokens are left out."""
    out = model(**inputs)
    out.loss.backward()
    logits = out.logits.detach()
    if logits.dim() == 3 and logits.shape[1] == TOKENS:
        logits = logits[inputs["attention_mask"].bool()]
    return Run(logits, out.loss.detach(), gradients())


def reference_model(
    case: Case, adapter: Any, tensors: dict[str, Tensor]
) -> tuple[nn.Module, Weights]:
    """A plain base model to be changed, and copies of the adapter's tensors."""
    model = base(case.preset).requires_grad_(False)
    return copy.deepcopy(model), Weights(adapter.plan, tensors)

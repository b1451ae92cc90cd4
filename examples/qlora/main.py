"""QLoRA: train LoRA beside a base of four bits, and merge it into the base in full precision.

    python examples/qlora/main.py --out qlora

A small Llama learns to count up, is quantised (bitsandbytes' nf4 if that is installed; else eight
bits in plain torch, to show that any packed layer will do), and then learns to count down by LoRA
at every projection. The adapter has the number type in which the layers compute; the packed
weights are never touched. What was trained is saved, put on the quantised base again, and merged
into the base in full precision, where it was never trained.
"""

import argparse
import copy
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import peftlang

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EVERYWHERE = "attn.q, attn.k, attn.v, attn.o, ffn.up, ffn.gate, ffn.down"


class EightBits(nn.Module):
    """A linear layer that keeps its weight in whole numbers, with a scale for each row."""

    scales: Tensor
    packed: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.register_buffer("scales", weight.abs().amax(1, keepdim=True) / 127)
        self.register_buffer("packed", (weight / self.scales).round().to(torch.int8))

    def dequantize(self) -> Tensor:
        """The weight ``[out_features, in_features]``."""
        made: Tensor = self.packed * self.scales
        return made

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dequantize().to(x.dtype))


def four_bits(linear: nn.Linear) -> nn.Module:
    """The layer in bitsandbytes' nf4; in eight bits of our own where that is not installed."""
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError:
        return EightBits(linear)
    sizes, options = (linear.in_features, linear.out_features), {"quant_type": "nf4"}
    made = bitsandbytes.nn.Linear4bit(*sizes, bias=False, compute_dtype=torch.float32, **options)
    made.load_state_dict(linear.state_dict())
    return made.to("cpu")  # type: ignore[no-any-return]


def quantise(model: nn.Module) -> nn.Module:
    """Pack every projection of the layers, in place; embedding and head stay as they are."""
    for path, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and "layers" in path:
                setattr(module, name, four_bits(child))
    return model


def counting(step: int, rows: int = 16, tokens: int = 12) -> Tensor:
    """Rows of ids that go up, or down, one by one."""
    starts = torch.randint(20, 100, (rows, 1))
    return starts + step * torch.arange(tokens)


def loss_of(model: Any, ids: Tensor) -> Tensor:
    loss: Tensor = model(input_ids=ids, labels=ids).loss
    return loss


def train(model: nn.Module, step: int, steps: int, rate: float) -> None:
    """Learn to count."""
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of(model, counting(step)).backward()
        optimiser.step()
    model.eval()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; its losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("qlora"))
    parser.add_argument("--base-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    full = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    train(full, 1, given.base_steps, 3e-3)
    held_out = counting(-1, rows=32)

    packed = quantise(copy.deepcopy(full))
    again = copy.deepcopy(packed)
    peftlang.compile(packed, "lora", at=EVERYWHERE, r=4)
    with torch.no_grad():
        losses = {"before": float(loss_of(packed, held_out))}
    train(packed, -1, given.steps, 1e-2)
    peftlang.save(packed, given.out / "adapter")
    with torch.no_grad():
        losses["after"] = float(loss_of(packed, held_out))
        peftlang.load(again, given.out / "adapter")
        losses["loaded"] = float(loss_of(again.eval(), held_out))
        peftlang.load(full, given.out / "adapter")
        losses["merged"] = float(loss_of(peftlang.merge(full), held_out))
    print(json.dumps(losses))
    return losses


if __name__ == "__main__":
    main()

"""The main job in one minute, with no network: compile, train, save, load, generate.

Run it with `make demo`. The model is a tiny Llama with random weights; demo.peft is the spec.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

import peftlang
from peftlang.models import build

SPEC = Path(__file__).with_name("demo.peft")
SENTENCE = b"a method is one line of mathematics. "


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120, help="optimiser steps")
    parser.add_argument("--out", type=Path, help="folder to save in; a temporary one by default")
    return parser.parse_args()


def train(model: torch.nn.Module, tokens: torch.Tensor, steps: int) -> tuple[float, float]:
    """Teach the adapter the tokens; returns the first and the last loss."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-1)
    losses = []
    model.train()
    for step in range(steps):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0 or step == steps - 1:
            print(f"  step {step:3d}  loss {losses[-1]:.3f}")
    model.eval()
    return losses[0], losses[-1]


def main() -> None:
    """Run the demo; raises if any promise is broken."""
    options = parse()
    folder = options.out or Path(tempfile.mkdtemp(prefix="peftlang-")) / "demo"
    tokens = torch.tensor([list(SENTENCE)]) % 160

    model = build("tiny-llama")
    with torch.no_grad():
        before = model(input_ids=tokens).logits
    print(f"compiling {SPEC.name} for tiny-llama")
    peftlang.compile(model, SPEC, l=4, r=64)
    print(f"  {peftlang.adapters(model)['default']!r}")

    print("training")
    first, last = train(model, tokens, options.steps)
    if not last < first:
        raise SystemExit("the loss did not fall")
    peftlang.save(model, folder)
    print(f"saved in {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")

    loaded: Any = peftlang.load(build("tiny-llama"), folder)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=0
        )
        with peftlang.disabled(loaded):
            torch.testing.assert_close(loaded(input_ids=tokens).logits, before, rtol=0, atol=0)
    print("loaded: the same logits; disabled: the base's own, bit for bit")

    written = loaded.generate(tokens[:, :9], max_new_tokens=28, do_sample=False)
    print(f"generated: {bytes(written[0].tolist()).decode('ascii', errors='replace')!r}")


if __name__ == "__main__":
    main()

"""A method of one's own, on a vision transformer.

`gated.peft`, beside this file, holds a method that no library has: a low-rank change behind a gate
that every token opens for itself, and an adapter that places it and trains the head too. That file
is all it takes. A small ViT learns scikit-learn's handwritten digits; then they come rotated by a
quarter turn, which it cannot read; the adapter learns to.

    python examples/vit_digits/main.py [--steps 200] [--base-steps 400] [--out out/vit_digits]

Needs `pip install peftlang scikit-learn`: no network, no GPU, about a minute on two cores.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, set_seed

import peftlang

SPEC = Path(__file__).with_name("gated.peft")


def images() -> tuple[Tensor, Tensor]:
    """1,797 digits, ``[n, 1, 8, 8]`` in [-1, 1], in random order, and what they are, ``[n]``."""
    digits = load_digits()
    pixels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    order = torch.randperm(len(pixels))
    return pixels[order], torch.tensor(digits.target)[order]


def base_model() -> ViTForImageClassification:
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=96,
        initializer_range=0.1,
    )
    config.num_labels = 10
    return ViTForImageClassification(config)


def train(
    model: ViTForImageClassification,
    trained: Iterable[torch.nn.Parameter],
    pixels: Tensor,
    labels: Tensor,
    steps: int,
) -> None:
    """An ordinary training loop: nothing in it knows of adapters."""
    optimiser = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
    model.train()
    for step in range(steps):
        batch = torch.randint(len(pixels), (64,))
        loss: Tensor = model(pixel_values=pixels[batch], labels=labels[batch]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"  step {step:4}  loss {loss.item():.3f}")


@torch.no_grad()
def measured(
    model: ViTForImageClassification, pixels: Tensor, labels: Tensor
) -> tuple[float, float]:
    """Loss, and the share of digits that are read rightly."""
    out = model.eval()(pixel_values=pixels, labels=labels)
    right = (out.logits.argmax(-1) == labels).float().mean().item()
    return out.loss.item(), right


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; losses on unseen rotated digits before, after, and as loaded again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="steps of the adapter")
    parser.add_argument("--base-steps", type=int, default=400, help="steps of the base")
    parser.add_argument("--out", type=Path, default=Path("out/vit_digits"))
    options = parser.parse_args(argv)
    set_seed(0)
    upright, labels = images()
    rotated = upright.rot90(dims=(2, 3))
    kept = 300

    model = base_model()
    print("base, on upright digits")
    train(model, model.parameters(), upright[kept:], labels[kept:], options.base_steps)
    _, right = measured(model, upright[:kept], labels[:kept])
    loss, turned = measured(model, rotated[:kept], labels[:kept])
    print(f"  reads {right:.0%} of unseen digits, and {turned:.0%} of them rotated")
    model.save_pretrained(options.out / "base")

    peftlang.compile(model, SPEC, entry="digits", r=8)
    adapter = peftlang.adapters(model)["default"]
    print(f"adapter, on rotated digits: {adapter}")
    parameters = adapter.parameters()
    train(model, parameters.values(), rotated[kept:], labels[kept:], options.steps)
    after, reads = measured(model, rotated[:kept], labels[:kept])
    print(f"  reads {reads:.0%} of unseen rotated digits")
    with peftlang.disabled(model):
        _, still = measured(model, upright[:kept], labels[:kept])
    print(f"  switched off, it still reads {still:.0%} of upright ones")
    peftlang.save(model, options.out / "adapter")

    again = ViTForImageClassification.from_pretrained(options.out / "base")
    peftlang.load(again, options.out / "adapter")
    loaded, _ = measured(again, rotated[:kept], labels[:kept])
    return {"before": loss, "after": after, "loaded": loaded}


if __name__ == "__main__":
    main()

"""The mix-and-match adapter on an encoder-decoder: dates, read aloud, as numbers.

A small T5 learns to write `14 March 1999` as `1999-03-14`. Then it is frozen, and a mix-and-match
adapter (He et al. 2022: a short prefix in every attention, a wide parallel adapter on every
feed-forward block) teaches it another country's habits: `Sunday, March 14, 1999` as `03/14/99`.
Switched off, the adapter leaves the first habit as it was.

    python examples/seq2seq_mam/main.py [--steps 200] [--base-steps 400] [--out out/seq2seq_mam]

Needs nothing but `pip install peftlang`: no network, no GPU, about two minutes on two cores.
"""

import argparse
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration, set_seed

import peftlang

PAD, END, OFFSET = 0, 1, 2
Style = Callable[[date], tuple[str, str]]


def iso(day: date) -> tuple[str, str]:
    """What the base learns: `14 March 1999` to `1999-03-14`."""
    return f"{day.day} {day:%B %Y}", day.isoformat()


def american(day: date) -> tuple[str, str]:
    """What the adapter learns: `Sunday, March 14, 1999` to `03/14/99`."""
    return f"{day:%A, %B} {day.day}, {day.year}", f"{day:%m/%d/%y}"


def days(count: int, seed: int) -> list[date]:
    generator = torch.Generator().manual_seed(seed)
    first, last = date(1950, 1, 1).toordinal(), date(2049, 12, 31).toordinal()
    drawn = torch.randint(first, last + 1, (count,), generator=generator)
    return [date.fromordinal(ordinal) for ordinal in drawn.tolist()]


def encoded(texts: Sequence[str]) -> Tensor:
    """Characters as token ids, ``[len(texts), longest + 1]``, ended and padded."""
    rows = [torch.tensor([*(ord(c) + OFFSET for c in text), END]) for text in texts]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def decoded(tokens: Tensor) -> list[str]:
    return ["".join(chr(t - OFFSET) for t in row if t >= OFFSET) for row in tokens.tolist()]


def batch(style: Style, chosen: Sequence[date]) -> dict[str, Tensor]:
    """What T5's forward takes for these dates."""
    read, written = zip(*map(style, chosen), strict=True)
    ids, labels = encoded(read), encoded(written)
    mask = (ids != PAD).long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels.masked_fill(labels == PAD, -100),
    }


def base_model() -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=128 + OFFSET,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=PAD,
        eos_token_id=END,
    )
    config.decoder_start_token_id = PAD
    return T5ForConditionalGeneration(config)


def train(model: T5ForConditionalGeneration, style: Style, steps: int, rate: float) -> None:
    """An ordinary training loop, over whatever of the model trains."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps)
    model.train()
    for step in range(steps):
        loss: Tensor = model(**batch(style, days(64, seed=step))).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"  step {step:4}  loss {loss.item():.3f}")


@torch.no_grad()
def measured(model: Any, style: Style) -> tuple[float, float]:
    """On unseen dates: the loss, and the share that is written without a mistake."""
    unseen = days(100, seed=10**6)
    inputs = batch(style, unseen)
    loss = model.eval()(**inputs).loss.item()
    del inputs["labels"]
    written = decoded(model.generate(**inputs, max_new_tokens=12))
    wanted = [style(day)[1] for day in unseen]
    return loss, sum(a == b for a, b in zip(written, wanted, strict=True)) / len(wanted)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; losses on unseen American dates before, after, and as loaded again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="steps of the adapter")
    parser.add_argument("--base-steps", type=int, default=400, help="steps of the base")
    parser.add_argument("--out", type=Path, default=Path("out/seq2seq_mam"))
    options = parser.parse_args(argv)
    set_seed(0)

    model = base_model()
    print("base: ", " -> ".join(iso(date(1999, 3, 14))))
    train(model, iso, options.base_steps, rate=4e-3)
    print(f"  {measured(model, iso)[1]:.0%} of unseen dates are right")
    model.save_pretrained(options.out / "base")

    peftlang.compile(model, "mam", l=8, r=64)
    print("adapter: ", " -> ".join(american(date(1999, 3, 14))))
    print(f"  {peftlang.adapters(model)['default']}")
    before, _ = measured(model, american)
    train(model, american, options.steps, rate=1e-2)
    after, right = measured(model, american)
    print(f"  {right:.0%} of unseen dates are right")
    with peftlang.disabled(model):
        print(f"  switched off, {measured(model, iso)[1]:.0%} of the base's")
    peftlang.save(model, options.out / "adapter")

    again = T5ForConditionalGeneration.from_pretrained(options.out / "base")
    peftlang.load(again, options.out / "adapter")
    loaded, _ = measured(again, american)
    return {"before": before, "after": after, "loaded": loaded}


if __name__ == "__main__":
    main()

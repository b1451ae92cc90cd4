"""One training step, against HF PEFT in the same run.

    python -m benchmarks.train_step [--methods lora,ia3,dora] [--batch 1] [--tokens 64] [--full]

A step is forward with labels, backward, AdamW and zero_grad. The contenders take turns, each
first as often as any other, so that a busy machine is as unkind to one as to the other; a ratio is
the median over the pairs that ran side by side. Both libraries adapt the same weights at the same
places, which is checked: as many trainable numbers, and the same first loss.
"""

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable

import peft
import torch
from torch import Tensor, nn

import peftlang
from benchmarks.common import llama, quartiles, report

PEFT: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "dora": lambda: peft.LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], use_dora=True
    ),
}


class Contender:
    """One model with its optimiser, ready to take steps.

    Args:
        model: Adapted, or to be trained whole.
        ids: ``[batch, tokens]``, the same at every step.
    """

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        self.model, self.ids = model.train(), ids
        trained = [p for p in model.parameters() if p.requires_grad]
        self.trainable = sum(p.numel() for p in trained)
        self.optimiser = torch.optim.AdamW(trained, lr=1e-4)
        self.seconds: list[float] = []

    def step(self) -> float:
        """Take a step; its loss."""
        loss: Tensor = self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.item()

    def timed(self, clock: Callable[[], float]) -> None:
        start = clock()
        self.step()
        self.seconds.append(clock() - start)


def race(contenders: list[Contender], repetitions: int, clock: Callable[[], float]) -> None:
    """Let all take steps in turn; who begins changes every time."""
    gc.collect()
    gc.disable()
    for turn in range(repetitions):
        first = turn % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            contender.timed(clock)
    gc.enable()


def measure(method: str, options: argparse.Namespace) -> list[dict[str, object]]:
    torch.manual_seed(1)
    ids = torch.randint(3, 8000, (options.batch, options.tokens))
    named = {
        "peftlang": Contender(peftlang.compile(llama(options.layers), method), ids),
        "HF PEFT": Contender(peft.get_peft_model(llama(options.layers), PEFT[method]()), ids),
    }
    ours, theirs = named.values()
    assert ours.trainable == theirs.trainable, (ours.trainable, theirs.trainable)
    if options.full:
        named["full fine-tuning"] = Contender(llama(options.layers), ids)
    contenders = list(named.values())
    first = [contender.step() for contender in contenders]
    assert max(first) - min(first) < 1e-4 * first[0], first
    clock = time.process_time if options.cpu else time.perf_counter
    race(contenders, 2, clock)
    for contender in contenders:
        contender.seconds.clear()
    race(contenders, options.repetitions, clock)
    return [
        {
            "method": method,
            "by": name,
            "trainable": f"{contender.trainable:,}",
            "median ms": f"{1e3 * statistics.median(contender.seconds):.1f}",
            "of HF PEFT's": ratio(contender, theirs),
        }
        for name, contender in named.items()
    ]


def ratio(one: Contender, other: Contender) -> str:
    """Median ratio of paired steps, with its quartiles."""
    if one is other:
        return "1"
    pairs = zip(one.seconds, other.seconds, strict=True)
    low, middle, high = quartiles([a / b for a, b in pairs])
    return f"{middle:.3f}  [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="lora,ia3,dora", help="of: " + ", ".join(PEFT))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="processor time: for a busy machine, one thread",
    )
    parser.add_argument("--full", action="store_true", help="full fine-tuning as well")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [row for name in options.methods.split(",") for row in measure(name, options)]
    clock = "processor" if options.cpu else "wall"
    size = f"{options.layers} layers x 768, {options.batch} x {options.tokens} tokens"
    title = f"a training step, {size}, {clock} time"
    report(title, rows, as_json=options.json)


if __name__ == "__main__":
    main()

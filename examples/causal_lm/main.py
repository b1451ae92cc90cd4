"""LoRA on a causal language model, with `Trainer`, on text that ships with Python.

A small byte-level Llama first learns to write what the standard library's functions do: code.
Then it is frozen, and a LoRA on every projection teaches it what the same library says of itself:
its documentation strings. What is saved is the LoRA alone, and it is put on the same base again.

    python examples/causal_lm/main.py [--steps 120] [--base-steps 240] [--out out/causal_lm]

Needs nothing but `pip install peftlang[train]`: no network, no GPU, a minute or two on two cores.
"""

import argparse
import ast
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

import peftlang

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
LENGTH = 96


def code_and_prose(files: int) -> tuple[str, str]:
    """The standard library, taken apart: its code, and its documentation strings."""
    code, prose = [], []
    folder = Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.glob("[a-z]*.py"))[:files]:
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                prose.append(text)
                node.body[0] = ast.Pass()
        code.append(ast.unparse(tree))
    return "\n\n".join(code), "\n\n".join(prose)


def encoded(text: str) -> Tensor:
    """A text's bytes: the smallest tokenizer there is."""
    return torch.tensor(list(text.encode()))


def decoded(tokens: Tensor) -> str:
    return bytes(tokens.tolist()).decode(errors="replace")


def blocks(text: str) -> list[dict[str, Tensor]]:
    """A text cut into examples for `Trainer`."""
    return [{"input_ids": b, "labels": b} for b in encoded(text).split(LENGTH) if len(b) == LENGTH]


def base_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def trainer(
    model: LlamaForCausalLM, text: str, out: Path, *, steps: int, rate: float, name: str
) -> Trainer:
    """The usual `Trainer`; a twentieth of the text is kept for evaluation."""
    data = blocks(text)
    kept = len(data) // 20
    arguments = TrainingArguments(
        str(out / name),
        max_steps=steps,
        learning_rate=rate,
        per_device_train_batch_size=16,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 10,
        logging_steps=max(1, steps // 4),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )
    return Trainer(model, arguments, train_dataset=data[kept:], eval_dataset=data[: min(kept, 64)])


def continued(model: Any, prompt: str, length: int) -> str:
    """What the model writes after a prompt."""
    tokens = model.generate(encoded(prompt)[None], max_new_tokens=length, do_sample=True, top_k=4)
    return decoded(tokens[0])


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run the example; losses on unseen prose before, after, and as loaded again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=120, help="steps of the LoRA")
    parser.add_argument("--base-steps", type=int, default=240, help="steps of the base")
    parser.add_argument("--files", type=int, default=60, help="modules of the library to read")
    parser.add_argument("--write", type=int, default=120, help="bytes that each model writes")
    parser.add_argument("--out", type=Path, default=Path("out/causal_lm"))
    options = parser.parse_args(argv)
    set_seed(0)
    code, prose = code_and_prose(options.files)

    model = base_model()
    print(f"base: {len(code):,} bytes of code")
    trainer(model, code, options.out, steps=options.base_steps, rate=8e-3, name="pretrain").train()
    model.save_pretrained(options.out / "base")

    peftlang.compile(model, "lora", at="linear", r=8, alpha=32.0)
    print(f"adapter: {len(prose):,} bytes of prose; {peftlang.adapters(model)['default']}")
    training = trainer(model, prose, options.out, steps=options.steps, rate=5e-3, name="adapt")
    before = training.evaluate()["eval_loss"]
    training.train()
    after = training.evaluate()["eval_loss"]
    peftlang.save(model, options.out / "adapter")

    again = LlamaForCausalLM.from_pretrained(options.out / "base")
    peftlang.load(again, options.out / "adapter")
    loaded = trainer(again, prose, options.out, steps=1, rate=0.0, name="again").evaluate()
    print(f"loss on unseen prose: {before:.3f}, then {after:.3f}; loaded {loaded['eval_loss']:.3f}")

    prompt = "Return the "
    with peftlang.disabled(again):
        print("the base writes:   ", repr(continued(again, prompt, options.write)))
    print("with the adapter:  ", repr(continued(again, prompt, options.write)))
    return {"before": before, "after": after, "loaded": loaded["eval_loss"]}


if __name__ == "__main__":
    main()

"""What people run adapted models with: pipelines, checkpointing, autocast, accelerate, DDP."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build
from tests.architectures.by_hand import (
    PLACES,
    adapted,
    batch,
    distance,
    gradients_by_hand,
    matrices,
    merged,
)

# Dynamo hides this warning of its own from whoever shows warnings, not from who makes them errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    # The name that every supported transformers has.
    pytest.mark.filterwarnings("ignore:.activation_checkpointing_enable. is dep:FutureWarning"),
]
CLOSE = 2e-5


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    torch.compiler.reset()


def check_gradients(model: Any, preset: str, close: float = 50 * CLOSE) -> None:
    """Loss and gradients of a training step are those of the merged model."""
    reference = merged(model, preset)
    model.train()
    reference.train()
    model.zero_grad()
    losses = []
    for one in (model, reference):
        torch.manual_seed(2)
        loss = one(**batch(preset)).logits.square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=close)
    for place in PLACES[preset]:
        wanted = gradients_by_hand(reference, model, place)
        for parameter, gradient in zip(matrices(model, place), wanted, strict=True):
            assert parameter.grad is not None
            assert distance(parameter.grad, gradient) < close


@pytest.mark.parametrize(
    ("preset", "reentrant"),
    [
        ("tiny-llama", False),
        ("tiny-llama", True),
        ("tiny-gpt2", False),
        ("tiny-t5", True),
        ("tiny-bert", False),
    ],
)
def test_gradient_checkpointing(preset: str, reentrant: bool) -> None:
    model: Any = adapted(preset)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    check_gradients(model, preset)


@pytest.mark.parametrize("preset", ["tiny-llama"])
def test_aot_autograd(preset: str) -> None:
    model: Any = adapted(preset, backend="aot_eager")
    check_gradients(model, preset)
    with torch.no_grad():
        found = model.eval()(**batch(preset, rows=3, tokens=9)).logits
        wanted = merged(model, preset)(**batch(preset, rows=3, tokens=9)).logits
    assert distance(found, wanted) < CLOSE


@pytest.mark.parametrize("preset", ["tiny-t5"])
def test_aot_autograd_with_checkpointing(preset: str) -> None:
    model: Any = adapted(preset, backend="aot_eager")
    model.activation_checkpointing_enable({"use_reentrant": False})
    check_gradients(model, preset)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor() -> None:
    check_gradients(adapted("tiny-llama", backend="inductor"), "tiny-llama")


def test_autocast() -> None:
    model: Any = adapted("tiny-llama")
    reference = merged(model, "tiny-llama")
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**batch("tiny-llama")).logits
        wanted = reference(**batch("tiny-llama")).logits
    assert found.dtype is torch.bfloat16
    assert distance(found.float(), wanted.float()) < 0.05
    found.float().square().mean().backward()
    for parameter in peftlang.adapters(model)["default"].parameters().values():
        assert parameter.grad is not None
        assert parameter.grad.dtype is torch.float32
        assert parameter.grad.any()
    full = model(**batch("tiny-llama")).logits
    assert full.dtype is torch.float32


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate(precision: str) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    model: Any = adapted("tiny-llama")
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    prepared, optimiser = accelerator.prepare(model, optimiser)
    wanted = merged(model, "tiny-llama")(**batch("tiny-llama")).logits
    out = prepared(**batch("tiny-llama")).logits
    assert distance(out, wanted) < (CLOSE if precision == "no" else 0.05)
    accelerator.backward(out.square().mean())
    optimiser.step()
    after = model(**batch("tiny-llama")).logits
    assert not torch.equal(after, out)
    unwrapped = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
    assert unwrapped is model
    wanted = merged(model, "tiny-llama")(**batch("tiny-llama")).logits
    assert distance(unwrapped(**batch("tiny-llama")).logits, wanted) < CLOSE
    with peftlang.disabled(model):
        base = build("tiny-llama")(**batch("tiny-llama")).logits
        assert torch.equal(unwrapped(**batch("tiny-llama")).logits, base)


def test_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.runtime.ddp"]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")], text=True, stdout=subprocess.PIPE
        )
        for rank in (0, 1)
    ]
    for process in running:
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0
        assert float(printed) < 50 * CLOSE


def tokenizer() -> Any:
    """One token per word `w0` … `w159`, in memory."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(160)}
    plain = Tokenizer(models.WordLevel(words, "w3"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "w0", "eos_token": "w2"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, padding_side="left", **marks)


def test_a_text_generation_pipeline() -> None:
    from transformers import pipeline

    model: Any = adapted("tiny-llama")
    reference = merged(model, "tiny-llama")
    prompts = ["w5 w6 w7", "w9 w8 w7 w6"]
    options = {"max_new_tokens": 4, "do_sample": False, "batch_size": 2}
    found = []
    for one in (model, reference):
        run = pipeline("text-generation", model=one, tokenizer=tokenizer(), device="cpu")
        found.append(run(prompts, **options))
    assert found[0] == found[1]


@pytest.mark.parametrize("preset", ["tiny-roberta", "tiny-distilbert"])
def test_a_text_classification_pipeline(preset: str) -> None:
    from transformers import pipeline

    model: Any = adapted(preset)
    reference = merged(model, preset)
    found = []
    for one in (model, reference, build(preset)):
        run = pipeline("text-classification", model=one, tokenizer=tokenizer(), device="cpu")
        found.append(run(["w5 w6 w7", "w9 w8 w7 w6"], top_k=None))
    for mine, theirs, base in zip(*found, strict=True):
        assert [one["label"] for one in mine] == [one["label"] for one in theirs]
        scores = [[one["score"] for one in answer] for answer in (mine, theirs, base)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-4)
        assert scores[0] != pytest.approx(scores[2], rel=1e-4)


def test_a_model_inside_another() -> None:
    """A part of a user's own module, with a head of its own behind it."""

    class Headed(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body, self.head = body, nn.Linear(32, 2)

        def forward(self, ids: Tensor) -> Tensor:
            hidden = self.body(input_ids=ids).last_hidden_state
            return self.head(hidden[:, -1])  # type: ignore[no-any-return]

    model: Any = adapted("tiny-llama")
    reference: Any = merged(model, "tiny-llama")
    outer, other = Headed(model.model), Headed(reference.model)
    other.head.load_state_dict(outer.head.state_dict())
    ids = batch("tiny-llama")["input_ids"]
    assert distance(outer(ids), other(ids)) < CLOSE
    outer(ids).sum().backward()
    assert outer.head.weight.grad is not None
    assert all(
        p.grad is not None and p.grad.any()
        for p in peftlang.adapters(model)["default"].parameters().values()
    )

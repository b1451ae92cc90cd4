"""The Hugging Face `Trainer` on an adapted model, on tiny synthetic data."""

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

import peftlang
from peftlang.models import build
from tests.architectures.by_hand import (
    PLACES,
    adapted,
    distance,
    gradients_by_hand,
    matrices,
    merged,
)

# Dynamo hides this warning of its own from whoever shows warnings, not from who makes them errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
]
STEPS = 4


class Rows(Dataset[dict[str, Tensor]]):
    """Fixed rows of random tokens, with a column that no model takes."""

    def __init__(self, count: int = 12) -> None:
        self.ids = torch.randint(3, 160, (count, 8), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.ids[index]
        return {"input_ids": ids, "labels": ids, "source": torch.tensor(index)}


def trainer(model: nn.Module, folder: Path, **options: Any) -> Trainer:
    chosen: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 3,
        "learning_rate": 0.02,
        "report_to": [],
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
    }
    arguments = TrainingArguments(**(chosen | options))
    return Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows(6))


def losses(done: Trainer) -> list[float]:
    return [entry["loss"] for entry in done.state.log_history if "loss" in entry]


def tensors(model: nn.Module) -> dict[str, Tensor]:
    found = peftlang.adapters(model)["default"].tensors()
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def test_learns_without_touching_the_base(tmp_path: Path) -> None:
    model = adapted("tiny-llama")
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    done = trainer(model, tmp_path, max_steps=8, weight_decay=0.1)
    done.train()
    assert losses(done)[-1] < losses(done)[0]
    assert base
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in base.items())
    assert "input_ids" in inspect.signature(model.forward).parameters
    assert done.evaluate()["eval_loss"] < losses(done)[0]


@pytest.mark.parametrize(
    "options",
    [
        {
            "gradient_checkpointing": True,
            "gradient_checkpointing_kwargs": {"use_reentrant": True},
        },
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    ],
    ids=["checkpointing", "accumulation"],
)
def test_one_step_is_the_merged_models(options: dict[str, Any], tmp_path: Path) -> None:
    """With plain SGD at rate one, what a step changes is the gradient."""
    model = adapted("tiny-llama")
    reference = merged(model, "tiny-llama")
    plain = {"max_steps": 1, "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 1.0}
    before, kept = copy.deepcopy(model), copy.deepcopy(reference)
    done = trainer(model, tmp_path, **plain, **options)
    done.train()
    if "gradient_accumulation_steps" not in options:
        options = {}
    same = trainer(reference, tmp_path, **plain, **options)
    same.train()
    assert losses(done)[0] == pytest.approx(losses(same)[0], rel=1e-5)
    for place in PLACES["tiny-llama"]:
        was = kept.get_parameter(place.weight)
        was.grad = was.detach() - reference.get_parameter(place.weight).detach()
        wanted = gradients_by_hand(kept, before, place)
        pairs = zip(matrices(before, place), matrices(model, place), wanted, strict=True)
        for old, new, gradient in pairs:
            assert distance(old - new, gradient) < 1e-3


def test_half_precision_autocast(tmp_path: Path) -> None:
    model = adapted("tiny-llama")
    done = trainer(model, tmp_path, bf16=True, max_steps=6)
    done.train()
    assert losses(done)[-1] < losses(done)[0]
    assert all(t.dtype is torch.float32 for t in tensors(model).values())


def test_goes_on_where_a_checkpoint_was_written(tmp_path: Path) -> None:
    whole = adapted("tiny-llama")
    trainer(whole, tmp_path / "whole", save_strategy="steps", save_steps=2).train()
    again = adapted("tiny-llama")
    done = trainer(again, tmp_path / "again")
    done.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert done.state.global_step == STEPS
    wanted, found = tensors(whole), tensors(again)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    model = adapted("tiny-llama")
    options: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    # The greatest loss counts as the best, so that the last step is not.
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    done = trainer(model, tmp_path, greater_is_better=True, **options)
    done.train()
    steps = [e for e in done.state.log_history if "eval_loss" in e]
    best = max(steps, key=lambda entry: entry["eval_loss"])
    assert best["eval_loss"] != steps[-1]["eval_loss"]
    assert done.evaluate()["eval_loss"] == pytest.approx(best["eval_loss"], rel=1e-5)


def test_checkpoints_hold_the_adapter_and_not_the_base(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = adapted("tiny-llama")
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    trainer(model, tmp_path, max_steps=2, **options).train()
    checkpoint = tmp_path / "checkpoint-2"
    assert set(load_file(checkpoint / "model.safetensors")) == {
        name for name in model.state_dict() if ".peftlang.default." in name
    }
    loaded = peftlang.load(build("tiny-llama"), checkpoint)
    wanted, found = tensors(model), tensors(loaded)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with caplog.at_level("WARNING"):
        again = trainer(adapted("tiny-llama", init_seed=8), tmp_path / "again", max_steps=3)
        again.train(resume_from_checkpoint=str(checkpoint))
    assert "missing keys" not in caplog.text


def test_save_pretrained_and_back(tmp_path: Path) -> None:
    model = adapted("tiny-llama")
    peftlang.compile(model, "ia3", adapter_name="second")
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "default",
        "model.safetensors",
        "second",
    ]
    for kind in (LlamaForCausalLM, AutoModelForCausalLM, AutoConfig):
        with pytest.raises(ValueError, match=r"peftlang\.load\(base, folder\)"):
            kind.from_pretrained(tmp_path)
    with pytest.raises(peftlang.PeftError, match=r"D601.*default, second"):
        peftlang.load(build("tiny-llama"), tmp_path)
    fresh = build("tiny-llama")
    for name in ("default", "second"):
        peftlang.load(fresh, tmp_path / name, adapter_name=name)
    ids = Rows().ids[:2]
    with torch.no_grad():
        assert torch.equal(fresh(input_ids=ids).logits, model(input_ids=ids).logits)


def test_parts_are_not_saved_as_if_they_were_the_base(tmp_path: Path) -> None:
    model: Any = adapted("tiny-llama")
    with pytest.raises(peftlang.PeftError, match=r"R527.*`model` is a part"):
        model.model.save_pretrained(tmp_path)
    with pytest.raises(peftlang.PeftError, match=r"R527.*not pushed"):
        model.save_pretrained(tmp_path, push_to_hub=True)
    assert not list(tmp_path.iterdir())
    peftlang.merge(model).save_pretrained(tmp_path)
    merged = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = Rows().ids[:2]
    with torch.no_grad():
        assert torch.equal(merged(input_ids=ids).logits, model(input_ids=ids).logits)


def test_what_was_frozen_stays_so(tmp_path: Path) -> None:
    model = adapted("tiny-llama")
    frozen = next(iter(peftlang.adapters(model)["default"].parameters()))
    peftlang.adapters(model)["default"].parameters()[frozen].requires_grad_(requires_grad=False)
    peftlang.save(model, tmp_path / "saved")
    loaded = peftlang.load(build("tiny-llama"), tmp_path / "saved")
    found = peftlang.adapters(loaded)["default"].parameters()
    assert [name for name, value in found.items() if not value.requires_grad] == [frozen]
    peftlang.merge(loaded, keep=True)
    peftlang.unmerge(loaded)
    assert not peftlang.adapters(loaded)["default"].parameters()[frozen].requires_grad


@pytest.mark.parametrize("preset", ["tiny-t5", "tiny-vit"])
def test_other_models(preset: str, tmp_path: Path) -> None:
    class Other(Rows):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            if preset != "tiny-vit":
                return super().__getitem__(index)
            pixels = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
            return {"pixel_values": pixels, "labels": torch.tensor(index % 3)}

    done = trainer(adapted(preset), tmp_path, max_steps=6)
    done.train_dataset = done.eval_dataset = Other()
    before = done.evaluate()["eval_loss"]
    done.train()
    assert done.evaluate()["eval_loss"] < before

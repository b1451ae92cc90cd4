"""On models of transformers: fused and transposed layers, prompts, `ffn.act`, and the command."""

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

import peftlang
from peftlang import PeftError
from peftlang.cli import main
from peftlang.models import build
from tests.interop.hf import relative, stored, trained
from tests.methods.harness import randomise

IDS = torch.arange(10).reshape(2, 5) + 20


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def from_peft(preset: str, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(build(preset), folder).eval()


def test_transposed_layers_and_biases(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=3, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, bias="lora_only"
    )
    theirs = trained(config, lambda: build("tiny-gpt2"))
    ours = peftlang.from_hf(build("tiny-gpt2"), stored(theirs, tmp_path / "hf"))
    assert relative(logits(ours), logits(theirs)) < 1e-5
    back = from_peft("tiny-gpt2", peftlang.to_hf(ours, tmp_path / "back"))
    assert relative(logits(back), logits(theirs)) < 1e-5


def test_prompt_tuning(tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    theirs = trained(config, lambda: build("tiny-llama"))
    wanted = logits(theirs)[:, 3:]
    ours = peftlang.from_hf(build("tiny-llama"), stored(theirs, tmp_path / "hf"))
    assert relative(logits(ours), wanted) < 1e-5
    back = from_peft("tiny-llama", peftlang.to_hf(ours, tmp_path / "back"))
    assert relative(logits(back)[:, 3:], wanted) < 1e-5


def ours(preset: str, spec: str, **options: Any) -> nn.Module:
    model = peftlang.compile(build(preset), spec, **options).eval()
    randomise(peftlang.adapters(model)["default"].parameters())
    return model


def test_roles_become_modules(tmp_path: Path) -> None:
    """`ia3` acts on `ffn.act`, where PEFT scales what the next projection reads."""
    model = ours("tiny-llama", "ia3")
    theirs = from_peft("tiny-llama", peftlang.to_hf(model, tmp_path / "out"))
    assert relative(logits(theirs), logits(model)) < 1e-5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "k_proj", "v_proj"]
    assert config["feedforward_modules"] == ["down_proj"]


def test_rows_of_a_fused_projection_are_no_module(tmp_path: Path) -> None:
    with pytest.raises(PeftError, match="whole modules"):
        peftlang.to_hf(ours("tiny-gpt2", "lora", r=2), tmp_path / "out")


def test_the_command_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peftlang.save(ours("tiny-llama", "dora", r=2), tmp_path / "first")
    run = ["--model", "tiny-llama", "-o"]
    assert main(["convert", str(tmp_path / "first"), *run, str(tmp_path / "hf")]) == 0
    assert main(["convert", str(tmp_path / "hf"), *run, str(tmp_path / "second")]) == 0
    assert "an adapter of peftlang" in capsys.readouterr().out
    before, after = (peftlang.load(build("tiny-llama"), tmp_path / n) for n in ("first", "second"))
    assert torch.equal(logits(before), logits(after))
    given = ["convert", str(tmp_path / "hf"), *run, str(tmp_path / "low"), "--as-lora", "2"]
    assert main([*given, "--json"]) == 0
    modules = json.loads(capsys.readouterr().out)["modules"]
    assert len(modules) == 4
    assert all(0 < module["error"] < 1 for module in modules)
    assert main([*given, "--merged"]) == 2
    assert main(["convert", str(tmp_path / "none"), *run, str(tmp_path / "x")]) == 2
    assert "D601" in capsys.readouterr().err

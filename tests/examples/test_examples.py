"""Every example program, run in a small form: it learns, and what it saved does the same."""

import json
import runpy
import warnings
from pathlib import Path

import pytest
import torch

from peftlang.cli import main as peftlang

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = {
    "causal_lm": ["--steps", "8", "--base-steps", "4", "--files", "6", "--write", "8"],
    "vit_digits": ["--steps", "15", "--base-steps", "15"],
    "seq2seq_mam": ["--steps", "8", "--base-steps", "4"],
    "qlora": ["--steps", "30", "--base-steps", "20"],
}


def test_every_example_is_run_here() -> None:
    assert set(SMALL) == {path.parent.name for path in EXAMPLES.glob("*/main.py")}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_example_learns_and_its_adapter_comes_back(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # What Trainer, torch and transformers have to say to each other is not ours.
        warnings.simplefilter("ignore")
        program = runpy.run_path(str(EXAMPLES / name / "main.py"))
        losses = program["main"]([*SMALL[name], "--out", str(tmp_path)])
    assert losses["after"] < losses["before"]
    assert losses["loaded"] == pytest.approx(losses["after"], rel=1e-6)
    saved = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter.peft", "adapter.safetensors", "adapter.json", "plan.json"} <= saved
    torch._dynamo.reset()


def test_the_method_of_the_reader_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    spec = EXAMPLES / "vit_digits" / "gated.peft"
    assert peftlang(["check", str(spec)]) == 0
    assert peftlang(["fmt", "--check", str(spec)]) == 0
    capsys.readouterr()
    assert peftlang(["explain", str(spec), "--model", "tiny-vit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/main.py")), ids=lambda p: p.parent.name)
def test_an_example_stays_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 150

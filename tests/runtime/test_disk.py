"""Saved folders: bit for bit, whole or not at all, and every damage has its own error."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import peftlang
from peftlang.models import build
from peftlang.runtime import disk
from tests.architectures.by_hand import adapted, batch, randomise

PRESET = "tiny-gpt2"


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**batch(PRESET)).logits
    return found


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return adapted(PRESET)


@pytest.fixture
def folder(model: nn.Module, tmp_path: Path) -> Path:
    return peftlang.save(model, tmp_path / "saved")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def state(model: nn.Module) -> dict[str, Any]:
    return {name: set(module.__dict__) for name, module in model.named_modules()}


def test_loads_bit_for_bit(model: nn.Module, folder: Path) -> None:
    loaded = peftlang.load(build(PRESET), folder)
    mine, theirs = (peftlang.adapters(m)["default"].tensors() for m in (model, loaded))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert torch.equal(logits(loaded), logits(model))
    assert set(contents(folder)) == {
        "adapter.peft",
        "plan.json",
        "adapter.safetensors",
        "adapter.json",
    }


def test_saves_again_what_it_loaded(folder: Path, tmp_path: Path) -> None:
    loaded = peftlang.load(build(PRESET), folder)
    again = peftlang.save(loaded, tmp_path / "again")
    assert contents(again) == contents(folder)


def test_two_adapters_in_one_process(model: nn.Module, folder: Path, tmp_path: Path) -> None:
    both = peftlang.load(build(PRESET), folder, adapter_name="one")
    peftlang.compile(both, "lora", adapter_name="two", at="linear")
    with pytest.raises(peftlang.PeftError, match="one, two") as error:
        peftlang.save(both, tmp_path / "both")
    assert error.value.code == "R504"
    peftlang.save(both, tmp_path / "two", adapter_name="two")
    loaded = peftlang.load(build(PRESET), tmp_path / "two")
    assert len(peftlang.adapters(loaded)["default"].sites) > 4
    peftlang.set_active(both, "one")
    assert torch.equal(logits(both), logits(model))


def test_half_precision_and_masters(tmp_path: Path) -> None:
    base = build(PRESET).bfloat16()
    model = peftlang.compile(base, "lora", param_dtype=torch.float32)
    randomise(model)
    folder = peftlang.save(model, tmp_path / "saved")
    loaded = peftlang.load(build(PRESET).bfloat16(), folder, param_dtype=torch.float32)
    mine, theirs = (peftlang.adapters(m)["default"].tensors() for m in (model, loaded))
    assert all(torch.equal(mine[n], theirs[n]) and theirs[n].dtype is torch.float32 for n in mine)
    assert torch.equal(logits(loaded), logits(model))


def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["save_file", "_swap"])
def test_a_full_disk_loses_nothing(
    where: str, model: nn.Module, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)
    monkeypatch.setattr(disk, where, full)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(peftlang.PeftError, match="No space left") as error:
            peftlang.save(model, place)
        assert error.value.code == "D604"
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


@pytest.mark.parametrize("step", [1, 2])
def test_a_rename_that_fails_loses_nothing(
    step: int, model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = contents(folder), Path.rename
    calls: list[Path] = []

    def renamed(self: Path, target: Path) -> Path:
        calls.append(self)
        return full() if len(calls) == step else rename(self, target)  # type: ignore[func-returns-value,return-value]

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(peftlang.PeftError) as error:
        peftlang.save(model, folder)
    assert error.value.code == "D604"
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


PROCESS = """
import resource, signal, sys
import torch, peftlang
from tests.architectures.by_hand import adapted
model = adapted("tiny-gpt2")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    peftlang.save(model, sys.argv[1])
except peftlang.PeftError as error:
    print(error.code)
"""


def test_a_real_limit_on_file_sizes(folder: Path) -> None:
    assert resource.RLIMIT_FSIZE
    before = contents(folder)
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, str(folder)], text=True, capture_output=True, check=True
    )
    assert done.stdout.strip() == "D604"
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_a_killed_save_leaves_the_old_folder(
    model: nn.Module, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        peftlang.save(model, folder)
    assert contents(folder) == before
    assert torch.equal(logits(peftlang.load(build(PRESET), folder)), logits(model))


def test_places_that_cannot_be_written(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    for place in ("file", "full", "file/below"):
        with pytest.raises(peftlang.PeftError) as error:
            peftlang.save(model, tmp_path / place)
        assert error.value.code == "D604"
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    peftlang.save(model, tmp_path / "empty")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        about = json.loads((folder / "adapter.json").read_text())
        change(about)
        (folder / "adapter.json").write_text(json.dumps(about))

    return damage


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = load_file(folder / "adapter.safetensors")
        change(values)
        save_file(values, folder / "adapter.safetensors")

    return damage


def first(values: dict[str, Tensor]) -> str:
    return min(values)


DAMAGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "gone": ("D601", lambda f: f.rename(f.parent / "moved")),
    "tensors cut": ("D602", lambda f: cut(f / "adapter.safetensors")),
    "tensors empty": ("D602", lambda f: (f / "adapter.safetensors").write_bytes(b"")),
    "tensors noise": ("D602", lambda f: (f / "adapter.safetensors").write_bytes(b"\xff" * 99)),
    "tensors gone": ("D602", lambda f: (f / "adapter.safetensors").unlink()),
    "about cut": ("D602", lambda f: cut(f / "adapter.json")),
    "about a list": ("D602", lambda f: (f / "adapter.json").write_text("[]")),
    "about binary": ("D602", lambda f: (f / "adapter.json").write_bytes(b"\xff\x00")),
    "about gone": ("D602", lambda f: (f / "adapter.json").unlink()),
    "no base": ("D602", edited(lambda about: about.pop("base"))),
    "base a number": ("D602", edited(lambda about: about.update(base=3))),
    "no entry": ("D602", edited(lambda about: about.pop("entry"))),
    "spec gone": ("D602", lambda f: (f / "adapter.peft").unlink()),
    "spec binary": ("D602", lambda f: (f / "adapter.peft").write_bytes(b"\xff\x00")),
    "one missing": ("D602", tensors(lambda v: v.pop(first(v)))),
    "one too many": ("D602", tensors(lambda v: v.update(more=torch.ones(2)))),
    "other shape": ("D602", tensors(lambda v: v.update({first(v): torch.ones(1, 1)}))),
    "newer": ("D605", edited(lambda about: about.update(format=99))),
    "other class": ("D603", edited(lambda a: a["base"].update({"class": "X", "fingerprint": "x"}))),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage(kind: str, folder: Path) -> None:
    code, damage = DAMAGES[kind]
    damage(folder)
    model = build(PRESET)
    before, wanted = state(model), logits(model)
    with pytest.raises(peftlang.PeftError) as error:
        peftlang.load(model, folder)
    assert error.value.code == code
    assert error.value.help
    assert state(model) == before
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(logits(model), wanted)


def test_a_damaged_spec_is_shown(folder: Path) -> None:
    (folder / "adapter.peft").write_text("method lora(")
    model = build(PRESET)
    with pytest.raises(peftlang.PeftError) as error:
        peftlang.load(model, folder)
    assert error.value.code[0] in "PD"
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("other", ["tiny-llama", "tiny-mlp"])
def test_another_base(other: str, folder: Path) -> None:
    with pytest.raises(peftlang.PeftError, match="GPT2LMHeadModel") as error:
        peftlang.load(build(other), folder)
    assert error.value.code == "D603"


def test_a_wider_base_of_the_same_class(folder: Path) -> None:
    import transformers

    config = transformers.GPT2Config(n_embd=48, n_layer=2, n_head=4, vocab_size=160)
    with pytest.raises(peftlang.PeftError, match="wte") as error:
        peftlang.load(transformers.GPT2LMHeadModel(config), folder)
    assert error.value.code == "D603"


def test_a_failed_load_keeps_the_adapters_that_are_there(model: nn.Module, folder: Path) -> None:
    cut(folder / "adapter.safetensors")
    before = logits(model)
    with pytest.raises(peftlang.PeftError):
        peftlang.load(model, folder, adapter_name="more")
    DAMAGES["one missing"][1](peftlang.save(model, folder.parent / "other"))
    with pytest.raises(peftlang.PeftError):
        peftlang.load(model, folder.parent / "other", adapter_name="more")
    assert list(peftlang.adapters(model)) == ["default"]
    assert torch.equal(logits(model), before)

"""Surveys that are kept: what is found again is the same, and only where it is."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.models.llama import modeling_llama

import peftlang
from peftlang import keeping
from peftlang.capture.identity import identity
from peftlang.models import PRESETS, build, example_inputs
from peftlang.pipeline import survey
from peftlang.sites import kept
from tests.methods.harness import batch, randomise


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTLANG_CACHE", str(tmp_path))
    kept.forget()


def name(model: nn.Module) -> str | None:
    return identity(model, example_inputs(model))


def no_recording(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model was recorded")

    patch.setattr("peftlang.pipeline.record", refuse)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_read_from_disk_is_what_was_found(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = survey(build(preset))
    kept.forget()
    if preset == "tiny-transformer-encoder":
        assert not list(keeping.entries("surveys")), "what was written out is not in its graph"
        return
    no_recording(monkeypatch)
    again = survey(build(preset))
    assert again is not first
    assert str(again.graph.graph) == str(first.graph.graph)
    assert (again.sites, again.containers, again.tables) == (
        first.sites,
        first.containers,
        first.tables,
    )
    assert again.no_prompt == first.no_prompt
    assert again.graph.result[1] == first.graph.result[1]
    for one, other in zip(again.graph.graph.nodes, first.graph.graph.nodes, strict=True):
        assert one.meta.keys() == other.meta.keys()


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-t5", "tiny-gpt2"])
@pytest.mark.parametrize("spec", ["lora", "prefix", "prompt_tuning"])
def test_an_adapter_on_a_kept_survey_computes_the_same(
    preset: str, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits() -> Tensor:
        model = peftlang.compile(build(preset), spec).eval()
        randomise(peftlang.adapters(model)["default"].parameters())
        with torch.no_grad():
            found: Tensor = model(**batch(preset)).logits
        return found

    wanted = logits()
    kept.forget()
    no_recording(monkeypatch)
    assert torch.equal(logits(), wanted)


def test_another_process_finds_it(tmp_path: Path) -> None:
    script = (
        "import sys, peftlang.pipeline as p; from peftlang.models import build\n"
        "if sys.argv[1:]: p.record = None\n"
        "print(len(p.survey(build('tiny-bert')).sites))"
    )

    def run(*more: str) -> str:
        command = [sys.executable, "-c", script, *more]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert run() == run("again") == f"{len(survey(build('tiny-bert')).sites)}\n"
    assert len(list((tmp_path / "surveys").iterdir())) == 1


def test_a_damaged_entry_is_made_anew() -> None:
    wanted = survey(build("tiny-bert")).sites
    (entry,) = keeping.entries("surveys")
    whole = entry.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x80\x05N." * 2):
        kept.forget()
        entry.write_bytes(damaged)
        assert survey(build("tiny-bert")).sites == wanted
        kept.forget()
        assert kept.find(entry.name) is not None


CHANGES: dict[str, Callable[[Any], Any]] = {
    "attention": lambda m: m.set_attn_implementation("eager"),
    "config": lambda m: setattr(m.config, "use_cache", False),
    "attribute": lambda m: setattr(m.model.layers[0].self_attn, "scaling", 0.5),
    "shape": lambda m: m.resize_token_embeddings(7),
    "number type": lambda m: m.to(torch.bfloat16),
    "layers": lambda m: m.model.layers.append(m.model.layers[0]),
    "tied": lambda m: setattr(m.lm_head, "weight", m.model.embed_tokens.weight),
    "buffer": lambda m: m.model.rotary_emb.inv_freq.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_model_has_another_name(change: str) -> None:
    model = build("tiny-llama")
    before = name(model)
    assert before is not None
    assert name(build("tiny-llama")) == before
    CHANGES[change](model)
    assert name(model) not in {before, None}


def test_weights_make_no_difference() -> None:
    model = build("tiny-llama")
    before = name(model)
    for parameter in model.parameters():
        parameter.data.normal_()
    assert name(model) == before
    peftlang.compile(model, "lora")
    assert name(model) == before, "the base's own"


def test_other_inputs_have_another_name() -> None:
    model = build("tiny-llama")
    names = {
        identity(model, {"input_ids": ids})
        for ids in (torch.ones(2, 5).long(), torch.ones(2, 6).long(), torch.zeros(2, 5).long())
    }
    assert len(names - {None}) == 3


class Own(nn.Linear):
    """A class whose code may change from one run to the next."""


def replace(model: Any) -> None:
    model.model.layers[0].self_attn.q_proj = Own(16, 16)


def patch_instance(model: Any) -> None:
    layer = model.model.layers[0]
    layer.forward = lambda *args, **kwargs: type(layer).forward(layer, *args, **kwargs)


@pytest.mark.parametrize("change", [replace, patch_instance])
def test_what_may_do_anything_has_no_name(change: Callable[[Any], None]) -> None:
    model = build("tiny-llama")
    change(model)
    assert name(model) is None


def other(*args: Any) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("owner", "attribute"),
    [(modeling_llama, "apply_rotary_pos_emb"), (modeling_llama.LlamaMLP, "forward")],
)
def test_what_somebody_has_replaced_has_no_name(
    owner: ModuleType | type, attribute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, attribute, other)
    assert name(build("tiny-llama")) is None


def test_an_attention_of_the_users_own_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    AttentionInterface.register("own", other)
    model = build("tiny-llama")
    assert name(model) is not None, "it is another model's"
    model.config._attn_implementation = "own"
    assert name(model) is None


def test_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keeping.KINDS, "surveys", 1)
    for preset in ("tiny-bert", "tiny-vit"):
        survey(build(preset))
    assert len(list(keeping.entries("surveys"))) == 1


def test_a_folder_that_cannot_be_written_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFTLANG_CACHE", str(tmp_path / "file"))
    assert survey(build("tiny-bert")).sites

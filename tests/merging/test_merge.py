"""Merged equals un-merged, for every spec that says so; the others say why not."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.capture import is_adapters
from peftlang.models import build
from tests import adapting
from tests.methods.harness import batch, randomise, spec
from tests.methods.library_specs import library, one_of_each_kind, promises, small_arguments

PRESETS = ("tiny-llama", "tiny-gpt2", "tiny-bert", "tiny-t5")
MERGEABLE = [path for path in library() if promises(path, "mergeable")]


def logits(model: nn.Module, preset: str) -> Tensor:
    inputs = {k: v for k, v in batch(preset).items() if k != "labels" or preset == "tiny-t5"}
    with torch.no_grad():
        found: Tensor = model(**inputs).logits
    return found


def adapted(preset: str, path: Path, **options: Any) -> nn.Module:
    model = peftlang.compile(build(preset), path, **small_arguments(path), **options).eval()
    randomise(peftlang.adapters(model)[options.get("adapter_name", "default")].parameters())
    return model


def relative(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


WITHOUT_BIAS = ("tiny-llama", "tiny-t5")
ADD_A_CONSTANT = {"adapter_bias", "kadaptation"}
TYPICAL = one_of_each_kind(library())
CASES = [
    (path, preset)
    for path in MERGEABLE
    for preset in PRESETS
    if path in TYPICAL
    if not (path.stem == "bitfit" and preset in WITHOUT_BIAS)
]
CASES += [
    (spec(name), preset) for name in ("lora", "oft") for preset in ("tiny-gpt-neox", "tiny-phi3")
]


@pytest.mark.parametrize(("path", "preset"), CASES, ids=lambda v: getattr(v, "stem", v))
def test_a_merged_model_computes_the_same(path: Path, preset: str) -> None:
    model = adapted(preset, path)
    if path.stem in ADD_A_CONSTANT and preset in WITHOUT_BIAS:
        with pytest.raises(peftlang.NotMergeable, match="no bias"):
            peftlang.merge(model)
        return
    unmerged, adapter = adapting.adapted(build(preset), path, **small_arguments(path))
    randomise(adapter.parameters())
    expected = logits(unmerged, preset)
    kind = type(build(preset))
    merged = peftlang.merge(model)
    assert relative(logits(merged, preset), expected) < 1e-5
    assert type(merged) is kind
    assert not any(is_adapters(name) for name, _ in merged.named_modules())
    assert "forward" not in merged.__dict__
    assert merged.state_dict().keys() == build(preset).state_dict().keys()


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-gpt2"])
@pytest.mark.parametrize(
    "pair", [("lora", "dora"), ("oft", "lora"), ("dora", "loha"), ("ia3", "vera")]
)
def test_two_adapters_merge_as_they_act_together(pair: tuple[str, str], preset: str) -> None:
    model = build(preset).eval()
    for seed, name in enumerate(pair):
        path = spec(name)
        peftlang.compile(model, path, adapter_name=name, **small_arguments(path))
        randomise(peftlang.adapters(model)[name].parameters(), seed=seed)
    expected = logits(model, preset)
    assert relative(logits(peftlang.merge(model), preset), expected) < 1e-5


@pytest.mark.parametrize("name", ["lora", "dora", "oft", "ia3"])
def test_bfloat16_is_rounded_once_from_double(name: str) -> None:
    base = build("tiny-llama").to(torch.bfloat16).eval()
    exact = copy.deepcopy(base).float()
    model = peftlang.compile(base, spec(name), **small_arguments(spec(name)))
    randomise(peftlang.adapters(model)["default"].parameters())
    wide = peftlang.compile(exact, spec(name), **small_arguments(spec(name)))
    narrow = peftlang.adapters(model)["default"].parameters()
    for key, value in peftlang.adapters(wide)["default"].parameters().items():
        value.data.copy_(narrow[key].data)
    peftlang.merge(model)
    peftlang.merge(wide)
    theirs = dict(wide.named_parameters())
    for key, value in model.named_parameters():
        torch.testing.assert_close(value, theirs[key].to(torch.bfloat16), rtol=0, atol=0)


def test_unmerge_gives_back_base_and_adapter_bit_for_bit() -> None:
    base = build("tiny-llama").eval()
    weights = {k: v.clone() for k, v in base.state_dict().items()}
    model = adapted("tiny-llama", spec("dora"))
    expected = logits(model, "tiny-llama")
    peftlang.unmerge(peftlang.merge(model, keep=True))
    assert torch.equal(logits(model, "tiny-llama"), expected)
    for key, value in weights.items():
        assert torch.equal(model.state_dict()[key], value)


def test_nothing_to_unmerge() -> None:
    with pytest.raises(peftlang.PeftError, match="no merge to undo"):
        peftlang.unmerge(peftlang.merge(adapted("tiny-llama", spec("lora"))))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("houlsby", "gelu|relu|not linear"),
        ("scaled_parallel_adapter", "not this projection's own"),
        ("prefix", "attention product has no weights"),
        ("molora", "softmax"),
        ("prompt_tuning", "longer input"),
        ("loreft", "no weights of its own"),
    ],
)
def test_what_cannot_be_merged_says_why_and_stays(name: str, reason: str) -> None:
    model = adapted("tiny-llama", spec(name))
    before = logits(model, "tiny-llama")
    with pytest.raises(peftlang.NotMergeable, match=reason) as caught:
        peftlang.merge(model)
    assert {s.site.id for s in caught.value.sites} == {
        s.site.id for s in peftlang.why_not_mergeable(model)
    }
    assert torch.equal(logits(model, "tiny-llama"), before)


def test_a_tied_embedding_is_refused_and_not_corrupted() -> None:
    model = build("tiny-gpt2").eval()
    text = "method m(r: int = 2) {\n    param A[r, d_x] ~ normal\n    param B[d_h, r] ~ normal\n"
    text += "    position head\n    function delta = B @ (A @ x)\n}\n"
    peftlang.compile(model, text)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(peftlang.NotMergeable, match="shared by"):
        peftlang.merge(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_scaling_of_the_inner_activation_folds_into_the_projection_that_reads_it() -> None:
    model = adapted("tiny-bert", spec("ia3"))
    down = "bert.encoder.layer.0.output.dense.weight"
    before = dict(model.named_parameters())[down].detach().clone()
    values = peftlang.adapters(model)["default"].parameters()
    scale = next(v for k, v in values.items() if "layer.0" in k and "ffn_act" in k)
    expected = before * scale.detach()
    after = dict(peftlang.merge(model).named_parameters())[down]
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_merging_lora_equals_the_merge_of_hf_peft() -> None:
    ours = adapted("tiny-llama", spec("lora"))
    values = peftlang.adapters(ours)["default"].parameters()
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    theirs = peft.get_peft_model(build("tiny-llama"), config)
    for key, value in theirs.named_parameters():
        if "lora_" in key:
            module = key.removeprefix("base_model.model.").split(".lora_")[0]
            letter = "A" if "lora_A" in key else "B"
            found = [v for k, v in values.items() if module in k and k.endswith(f".{letter}")]
            value.data.copy_(found[0].data)
    merged = dict(theirs.merge_and_unload().named_parameters())
    for key, value in peftlang.merge(ours).named_parameters():
        torch.testing.assert_close(value, merged[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep", [False, True])
def test_a_weight_that_cannot_be_written_leaves_all_as_it_was(
    keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted("tiny-gpt2", spec("lora"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = model(**batch("tiny-gpt2")).logits
    place = Tensor.copy_
    written: list[Tensor] = []

    def fails(self: Tensor, value: Tensor) -> Tensor:
        written.append(self)
        if len(written) == 2:
            self.zero_()
            raise RuntimeError("no room")
        return place(self, value)

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "copy_", fails)
        with pytest.raises(RuntimeError, match="no room"):
            peftlang.merge(model, keep=keep)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(model(**batch("tiny-gpt2")).logits, wanted)

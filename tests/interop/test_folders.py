"""Folders that cannot be read, and adapters that cannot be written: what is said, what is left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import peftlang
from peftlang import PeftError
from peftlang.interop.options import check_options
from tests.interop.hf import IDS, INPUTS, Toy, loaded, relative, stored, toy, trained

Config = dict[str, Any]
Tensors = dict[str, Tensor]
LORA = {"peft_type": "LORA", "target_modules": ["q"]}


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"peft_type": "ADALORA"}, "I903", "ranks change"),
        ({"peft_type": "P_TUNING"}, "I903", "network"),
        ({"peft_type": "PREFIX_TUNING", "num_transformer_submodules": 2}, "I904", "submodules"),
        ({"peft_type": "LOHAA"}, "I903", "LOHA"),
        ({"lora_bias": True}, "I904", "lora_bias"),
        ({"use_qalora": True}, "I904", "use_qalora"),
        ({"alora_invocation_tokens": [1, 2]}, "I904", "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2]]}, "I904", "layer_replication"),
        ({"target_parameters": ["experts.w"]}, "I904", "target_parameters"),
        ({"trainable_token_indices": [3]}, "I904", "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "I904", "init_lora_weights"),
        ({"some_new_option": 3}, "I904", "some_new_option"),
        ({"peft_type": "OFT", "coft": True}, "I904", "coft"),
        ({"peft_type": "MISS", "init_weights": "bat"}, "I904", "init_weights"),
        ({"peft_type": "PROMPT_TUNING", "num_transformer_submodules": 2}, "I904", "submodules"),
    ],
)
def test_an_option_that_has_an_effect_is_never_passed_over(
    options: Config, code: str, named: str
) -> None:
    with pytest.raises(PeftError, match=named) as caught:
        check_options({**LORA, **options})
    assert caught.value.code == code
    assert caught.value.help


def test_options_that_are_off_are_no_matter() -> None:
    check_options({**LORA, "lora_bias": False, "megatron_config": None, "some_new_option": None})
    check_options({**LORA, "loftq_config": {}, "init_lora_weights": "gaussian"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = peft.LoraConfig(r=2, target_modules=["q"], modules_to_save=["head"])
    return stored(trained(config), tmp_path_factory.mktemp("hf") / "adapter")


def changed(
    folder: Path, new: Path, config: Callable[[Config], Any], tensors: Callable[[Tensors], Any]
) -> Path:
    """A copy of a folder with its two files changed."""
    new.mkdir()
    options = json.loads((folder / "adapter_config.json").read_text())
    values = load_file(folder / "adapter_model.safetensors")
    config(options)
    tensors(values)
    (new / "adapter_config.json").write_text(json.dumps(options))
    save_file(values, new / "adapter_model.safetensors")
    return new


def same(_anything: Any) -> None:
    """Leave it as it is."""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lora_alpha", "x"),
        ("target_modules", 5),
        ("target_modules", "(q"),
        ("rank_pattern", ["a"]),
        ("rank_pattern", {"(q": 2}),
        ("layers_to_transform", "one"),
    ],
)
def test_values_of_another_kind(option: str, value: Any) -> None:
    with pytest.raises(PeftError, match=option) as caught:
        check_options({**LORA, option: value})
    assert caught.value.code == "I902"


A = "base_model.model.layers.0.q.lora_A.weight"
CHANGES: dict[str, tuple[Callable[[Config], Any], Callable[[Tensors], Any], str, str]] = {
    "module": (lambda c: c.update(target_modules=["query"]), same, "I905", "query"),
    "no targets": (lambda c: c.update(target_modules=None), same, "I904", "targets"),
    "not a layer": (lambda c: c.update(target_modules=["norm"]), same, "I90", "norm"),
    "missing": (same, lambda t: t.pop(A), "I906", "lora_A"),
    "left over": (same, lambda t: t.update(more=torch.zeros(1)), "I906", "more"),
    "saved": (same, lambda t: [t.pop(k) for k in list(t) if "head" in k], "I906", "head"),
    "width": (same, lambda t: t.update({A: torch.zeros(2, 7)}), "I907", "d_x = 16"),
    "rank": (lambda c: c.update(r=5), same, "I907", "`r` = 5"),
    "alpha": (lambda c: c.pop("lora_alpha"), same, "I904", "lora_alpha"),
    "bias": (lambda c: c.update(bias="vera_only"), same, "I904", "vera_only"),
    "dropout": (
        lambda c: c.update(use_dora=True, lora_dropout=0.1),
        lambda t: [
            t.update({k.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(16)})
            for k in list(t)
            if "lora_A" in k
        ],
        "I904",
        "lora_dropout",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_that_does_not_fit(name: str, folder: Path, tmp_path: Path) -> None:
    config, tensors, code, named = CHANGES[name]
    model, bad = toy(), changed(folder, tmp_path / "bad", config, tensors)
    with pytest.raises(PeftError, match=named) as caught:
        peftlang.from_hf(model, bad, example_inputs=INPUTS)
    assert caught.value.code.startswith(code)
    assert peftlang.adapters(model) == {}
    assert torch.equal(model(IDS), toy()(IDS))


def test_a_folder_that_is_none(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    torn = changed(folder, tmp_path / "torn", same, same)
    file = torn / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    prose = changed(folder, tmp_path / "prose", same, same)
    (prose / "adapter_config.json").write_text("not json")
    pickled = changed(folder, tmp_path / "pickled", same, same)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    expected = {tmp_path / "nowhere": "I901", empty: "I901", pickled: "I901"}
    expected |= {torn: "I902", prose: "I902"}
    for path, code in expected.items():
        with pytest.raises(PeftError) as caught:
            peftlang.from_hf(toy(), path, example_inputs=INPUTS)
        assert caught.value.code == code, path


GATED = """method lora(r: int = 2) {
    param A[r, d_x] ~ kaiming_uniform
    param B[d_h, r] ~ normal
    param g[d_x]    ~ normal
    position "layers.*.q"
    composition h = h + sigmoid(g @ x) * (B @ (A @ x))
}"""
ROWS = """from lora import lora
from loha import loha
adapter two {
    lora(r = 2) at "layers.0.q"
    loha(r = 2) at "layers.1.q"
}"""
TWICE = ROWS.replace("loha", "lora").replace("from lora import lora\n", "", 1).replace(".1.", ".0.")
IN_PART = """from lora import lora
adapter part {
    lora(r = 2) at "layers.0.q"
    train "head.weight"
}"""


@pytest.mark.parametrize(
    ("spec", "code", "reason"),
    [
        (GATED, "I908", "is no method of PEFT"),
        (ROWS, "I909", "one method"),
        (TWICE, "I909", "twice"),
        (IN_PART, "I909", "in part, without its `bias`"),
    ],
)
def test_what_peft_cannot_say(spec: str, code: str, reason: str, tmp_path: Path) -> None:
    model = peftlang.compile(toy(), spec, example_inputs=INPUTS)
    with pytest.raises(PeftError, match=reason) as caught:
        peftlang.to_hf(model, tmp_path / "out")
    assert caught.value.code == code
    assert "--merged" in (caught.value.help or "")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    model = peftlang.compile(toy(), "lora", at='"layers.*.q"', example_inputs=INPUTS)
    (tmp_path / "out").mkdir()
    with pytest.raises(PeftError, match="there already"):
        peftlang.to_hf(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_any_mergeable_method_as_lora(tmp_path: Path) -> None:
    model = peftlang.compile(toy(), "loha", r=2, at='"layers.*.up"', example_inputs=INPUTS).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in peftlang.adapters(model)["default"].parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    wanted = model(IDS)
    exact = peftlang.to_hf_as_lora(model, tmp_path / "4", 4, example_inputs=INPUTS)
    assert [cut.path for cut in exact] == ["layers.0.up", "layers.1.up"]
    assert all(cut.error < 1e-6 for cut in exact), "two factors of rank two make rank four"
    assert relative(loaded(tmp_path / "4")(IDS), wanted) < 1e-5
    cuts = peftlang.to_hf_as_lora(model, tmp_path / "1", 1, example_inputs=INPUTS)
    for cut in cuts:
        assert isinstance(model, Toy)
        low = loaded(tmp_path / "1").get_base_model().get_submodule(cut.path)
        high = loaded(tmp_path / "4").get_base_model().get_submodule(cut.path)
        left, right = (m.get_delta_weight("default").detach() for m in (low, high))
        assert abs(float((left - right).norm() / right.norm()) - cut.error) < 1e-4
    with pytest.raises(PeftError, match="rank 0"):
        peftlang.to_hf_as_lora(model, tmp_path / "0", 0)


def test_a_change_of_no_weight_is_no_lora(tmp_path: Path) -> None:
    model = peftlang.compile(toy(), GATED, example_inputs=INPUTS)
    with pytest.raises(peftlang.NotMergeable):
        peftlang.to_hf_as_lora(model, tmp_path / "out", 2, example_inputs=INPUTS)


def test_projections_survive_our_own_folder(tmp_path: Path) -> None:
    """VeRA's are random buffers that no seed of ours gives: they are stored."""
    with pytest.warns(UserWarning, match="PRNG"):
        config = peft.VeraConfig(r=3, target_modules=["q", "v"], save_projection=False)
    theirs = trained(config)
    ours = peftlang.from_hf(toy(), stored(theirs, tmp_path / "hf"), example_inputs=INPUTS)
    peftlang.save(ours, tmp_path / "ours")
    again = peftlang.load(toy(), tmp_path / "ours", example_inputs=INPUTS)
    assert relative(again(IDS), theirs(IDS)) < 1e-5
    peftlang.save(again, tmp_path / "again")
    third = peftlang.load(toy(), tmp_path / "again", example_inputs=INPUTS)
    assert torch.equal(third(IDS), again(IDS))

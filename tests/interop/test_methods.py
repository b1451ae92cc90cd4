"""Every method: a folder of HF PEFT computes the same here, and comes back bit for bit."""

import json
from pathlib import Path
from typing import Any

import peft
import peft.tuners.boft.layer as boft
import peft.tuners.c3a.layer as c3a
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import peftlang
from peftlang.interop.reading import ROOT
from peftlang.interop.recognising import recognise
from peftlang.interop.table import TABLE
from tests.interop.hf import IDS, INPUTS, loaded, relative, stored, toy, trained

QV = ["q", "v"]
CASES: dict[str, tuple[Any, str]] = {
    "lora": (
        lambda: peft.LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=QV,
            rank_pattern={"layers.1.q": 2},
            alpha_pattern={"v": 3},
            lora_dropout=0.25,
        ),
        'lora(r = 2, alpha = 6.0, p = 0.25)  at "layers.*.q" in layers[1]',
    ),
    "rslora, head saved": (
        lambda: peft.LoraConfig(
            r=3, use_rslora=True, target_modules=r"layers\.\d\.(q|up)", modules_to_save=["head"]
        ),
        'train  "head"',
    ),
    "one layer, its biases": (
        lambda: peft.LoraConfig(
            target_modules=["up", "v"],
            layers_to_transform=1,
            layers_pattern="layers",
            bias="lora_only",
        ),
        'train  "layers.1.up.bias"',
    ),
    "rslora, two ranks": (
        lambda: peft.LoraConfig(
            r=1, use_rslora=True, target_modules=QV, rank_pattern={"v": 3}, lora_alpha=7
        ),
        "rslora(r = 3, alpha = 7.0",
    ),
    "embedding": (lambda: peft.LoraConfig(target_modules=["embed", "q"]), "embedding_lora("),
    "rslora of an embedding": (
        lambda: peft.LoraConfig(target_modules=["embed"], use_rslora=True),
        "embedding_rslora(",
    ),
    "dora": (lambda: peft.LoraConfig(target_modules=QV, use_dora=True, bias="all"), "dora("),
    "dora with rslora": (
        lambda: peft.LoraConfig(target_modules=QV, use_dora=True, use_rslora=True),
        "rsdora(",
    ),
    "ia3": (
        lambda: peft.IA3Config(target_modules=["q", "v", "up"], feedforward_modules=["up"]),
        'ia3_input  at "layers.*.up"',
    ),
    "vera": (
        lambda: peft.VeraConfig(r=6, target_modules=["q", "v", "up"], save_projection=True),
        "vera(r = 6",
    ),
    "oft": (
        lambda: peft.OFTConfig(oft_block_size=4, target_modules=QV, use_cayley_neumann=False),
        "oft(b = 4)",
    ),
    "oft by number of blocks": (
        lambda: peft.OFTConfig(
            r=2, oft_block_size=0, target_modules=["q", "o"], use_cayley_neumann=False
        ),
        "oft(b = 8)",
    ),
    "oft, one block": (
        lambda: peft.OFTConfig(
            oft_block_size=4, target_modules=QV, use_cayley_neumann=False, block_share=True
        ),
        "shared_oft(b = 4)",
    ),
    "oft, 3 terms": (
        lambda: peft.OFTConfig(oft_block_size=4, target_modules=QV, num_cayley_neumann_terms=3),
        "oft_neumann_3(b = 4)",
    ),
    "oft, 5 terms": (
        lambda: peft.OFTConfig(oft_block_size=4, target_modules=QV),
        "oft_neumann_5(b = 4)",
    ),
    "oft, 8 terms": (
        lambda: peft.OFTConfig(oft_block_size=4, target_modules=QV, num_cayley_neumann_terms=8),
        "oft_neumann_8(b = 4)",
    ),
    "oft, one block of 5 terms": (
        lambda: peft.OFTConfig(oft_block_size=4, target_modules=QV, block_share=True),
        "shared_oft_neumann_5(b = 4)",
    ),
    "oft, 2 terms": (
        lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q"], num_cayley_neumann_terms=2),
        "oft_neumann_2(b = 4)",
    ),
    "boft": (
        lambda: peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=QV),
        "boft(b = 4, factors = 2)",
    ),
    "fourierft": (
        lambda: peft.FourierFTConfig(
            n_frequency=9,
            scaling=3.0,
            target_modules=QV,
            n_frequency_pattern={"1.v": 5},
            random_loc_seed=11,
        ),
        "fourierft(n = 5, alpha = 3.0, seed = 11)",
    ),
    "loha": (
        lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=QV, rank_pattern={"v": 2}),
        "loha(r",
    ),
    "lokr": (lambda: peft.LoKrConfig(r=1, alpha=5, target_modules=["q"]), "lokr(r = 1"),
    "lokr, two splits": (
        lambda: peft.LoKrConfig(r=1, decompose_factor=2, target_modules=["v", "up"]),
        "lokr(r = 1, alpha = 8.0, f = 2)",
    ),
    "lokr, rectangular": (
        lambda: peft.LoKrConfig(r=1, target_modules=["v"]),
        "lokr_full_low(p = 2, q = 4",
    ),
    "lokr, second factor whole": (
        lambda: peft.LoKrConfig(r=8, target_modules=["q", "v"]),
        "lokr_full_full(",
    ),
    "lokr, both cut": (
        lambda: peft.LoKrConfig(r=1, decompose_both=True, target_modules=["q", "up"]),
        "lokr_low_low(",
    ),
    "c3a": (
        lambda: peft.C3AConfig(
            block_size=4, target_modules=["q", "v", "up"], block_size_pattern={"up": 8}
        ),
        "c3a(b = 8)",
    ),
    "hra": (lambda: peft.HRAConfig(r=4, target_modules=QV), "hra(r = 4)"),
    "hra, orthonormal": (
        lambda: peft.HRAConfig(r=4, target_modules=QV, apply_GS=True),
        "orthonormal_hra(r = 4)",
    ),
    "randlora": (
        lambda: peft.RandLoraConfig(
            r=4, randlora_alpha=32, target_modules=["q", "v", "up"], save_projection=True
        ),
        "narrowing_randlora(r = 4",
    ),
    "randlora, parts that no module reads": (
        lambda: peft.RandLoraConfig(r=4, target_modules=["up", "o"], save_projection=True),
        "randlora(r = 4",
    ),
    "randlora, rank that divides nothing": (
        lambda: peft.RandLoraConfig(
            r=5, target_modules=["q", "v"], save_projection=True, sparse=True
        ),
        "narrowing_randlora_of_any_rank(n = 2, r = 5",
    ),
    "miss of any rank": (lambda: peft.MissConfig(r=5, target_modules=QV), "miss_of_any_rank(r = 5"),
    "miss": (lambda: peft.MissConfig(r=4, target_modules=QV), "miss(r = 4)"),
    "ln_tuning": (
        lambda: peft.LNTuningConfig(target_modules=["norm"], modules_to_save=["head"]),
        'train  "layers.0.norm"',
    ),
}


class _Blocks:
    """The block diagonal that PEFT's BOFT has a CUDA kernel for."""

    @staticmethod
    def apply(blocks: Tensor) -> Tensor:
        return torch.stack([torch.block_diag(*each) for each in blocks])


class _Circular:
    """What PEFT's C3A computes, with the gradient that follows from it."""

    @staticmethod
    def apply(x: Tensor, w: Tensor) -> Tensor:
        blocks = x.reshape(*x.shape[:-1], *w.shape[1:])
        product = torch.einsum("...nb,mnb->...mb", torch.fft.ifft(blocks), torch.fft.fft(w))
        return torch.fft.fft(product).real.flatten(-2)


@pytest.fixture(autouse=True)
def _mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """BOFT without its CUDA kernel has one factor; C3A's own backward is wrong (see below)."""
    monkeypatch.setattr(boft, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(boft, "FastBlockDiag", _Blocks)
    monkeypatch.setattr(c3a, "BlockCircularConvolution", _Circular)


def test_the_gradient_that_peft_has_for_c3a_is_not_that_of_its_forward() -> None:
    from peft.tuners.c3a.utils import BlockCircularConvolution

    generator = torch.Generator().manual_seed(0)
    w = torch.randn(2, 1, 4, generator=generator)
    x = torch.randn(3, 4, generator=generator, requires_grad=True)
    ways = (BlockCircularConvolution.apply, _Circular.apply)
    theirs, plain = (way(x, w) for way in ways)
    assert relative(theirs, plain) < 1e-6
    wrong, right = (torch.autograd.grad(y.square().sum(), x)[0] for y in (theirs, plain))
    assert relative(wrong, right) > 0.1


def test_every_method_of_the_table_has_a_case() -> None:
    covered = {config().peft_type.value for config, _ in CASES.values()}
    assert covered | {"PROMPT_TUNING", "PREFIX_TUNING"} == set(TABLE)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_computes_the_same_and_comes_back(name: str, tmp_path: Path) -> None:
    config, expected = CASES[name]
    theirs = trained(config())
    folder = stored(theirs, tmp_path / "hf")
    ours = peftlang.from_hf(toy(), folder, example_inputs=INPUTS)
    wanted = theirs(IDS)
    assert relative(wanted, toy()(IDS)) > 1e-2, "the adapter does nothing"
    assert relative(ours(IDS), wanted) < 1e-5
    plan = peftlang.adapters(ours)["default"].plan
    assert plan.spec is not None
    assert expected.replace(" ", "") in plan.spec.source.replace(" ", "")

    back = peftlang.to_hf(ours, tmp_path / "back", example_inputs=INPUTS)
    before, after = _tensors(folder), _tensors(back)
    assert before.keys() - after.keys() <= _untouched(before), before.keys() ^ after.keys()
    _check_equal(after, {key: before[key] for key in after})
    assert _options(back) == _options(folder)
    again = peftlang.from_hf(toy(), back, example_inputs=INPUTS)
    _check_equal(*(peftlang.adapters(model)["default"].tensors() for model in (ours, again)))
    assert relative(loaded(back)(IDS), wanted) < 1e-5
    _check_gradients(theirs, ours)


def _tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def _untouched(tensors: dict[str, Tensor]) -> set[str]:
    """Embeddings that did not change, which PEFT stores besides."""
    return {key for key in tensors if key.endswith("base_layer.weight")}


def _check_equal(left: Any, right: Any) -> None:
    """Names, number types and every digit."""
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert value.dtype == right[key].dtype, key
        assert torch.equal(value, right[key]), key


SAID_OTHERWISE = {
    "target_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "n_frequency_pattern",
    "block_size_pattern",
    "peft_version",
    "sparse",
}
"""Options that name the same modules in another way; and `sparse`, which is how tensors started."""


def _options(folder: Path) -> dict[str, Any]:
    """What PEFT reads, but for options whose meaning the outputs show."""
    config = peft.PeftConfig.from_pretrained(folder).to_dict()
    return {key: value for key, value in config.items() if key not in SAID_OTHERWISE}


def _check_gradients(theirs: Any, ours: nn.Module) -> None:
    """Our gradients are theirs, pulled back through the layouts."""
    for model in (theirs, ours):
        model.zero_grad()
        model(IDS).square().mean().backward()
    expected = {_key(name): p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    view = peftlang.adapters(ours)["default"]
    tensors = view.tensors()
    placed = recognise(view.plan, ours, tensors.__getitem__, dict)[1] if view.plan.sites else []
    compared = 0
    for one in placed:
        for name, stored_at in one.form.tensors.items():
            own = one.tensors[name]
            gradient = expected[f"{ROOT}{one.path}.{stored_at.key}"]
            (pulled,) = torch.autograd.grad(stored_at.layout.theirs(own), own, gradient)
            assert own.grad is not None
            assert relative(own.grad, pulled) < 1e-4, (one.path, name)
            compared += 1
    for name in view.plan.train:
        path, _, leaf = name.rpartition(".")
        keys = [f"{ROOT}{path}.{inner}{leaf}" for inner in ("", "base_layer.", "ln_tuning_layers.")]
        gradient = next(expected[key] for key in keys if key in expected)
        assert relative(tensors[f"trained.{name}"].grad, gradient) < 1e-4, name
        compared += 1
    assert compared == len(expected)


def _key(name: str) -> str:
    """The key in the file of a parameter of a loaded PEFT model."""
    plain = name.replace(".modules_to_save.default", "").replace(".default", "")
    return plain.replace("magnitude_vector.weight", "magnitude_vector")


def test_the_configuration_is_plain_json(tmp_path: Path) -> None:
    theirs = trained(CASES["lora"][0]())
    ours = peftlang.from_hf(toy(), stored(theirs, tmp_path / "hf"), example_inputs=INPUTS)
    config = json.loads((peftlang.to_hf(ours, tmp_path / "b") / "adapter_config.json").read_text())
    assert config["target_modules"] == QV
    assert config["r"] == 4
    assert config["rank_pattern"] == {r"^layers\.1\.q": 2}
    assert set(config["alpha_pattern"].values()) == {3}

"""Parameters that a folder holds whole: tied ones, heads, projections that are drawn."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import peftlang
from peftlang import PeftError
from tests.interop.hf import IDS, INPUTS, loaded, relative, stored, toy, trained


class Tied(nn.Module):
    """A head whose weight is the table of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.q = nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(torch.tanh(self.q(self.embed(ids))))
        return found


def tied() -> nn.Module:
    """The same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tied().eval()


def untied() -> nn.Module:
    """What the remedy of the message makes of it."""
    model = tied()
    assert isinstance(model, Tied)
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    return model


def lora(**options: Any) -> Any:
    """A LoRA of one projection."""
    return peft.LoraConfig(r=2, target_modules=["q"], **options)


@pytest.mark.parametrize("saved", [["embed"], ["head"], ["embed", "head"]])
def test_one_of_two_tied_modules_is_no_tied_change(saved: list[str], tmp_path: Path) -> None:
    """PEFT then has two parameters: reading them as one would change the other module too."""
    theirs = trained(lora(modules_to_save=saved), tied)
    folder = stored(theirs, tmp_path / "hf")
    with pytest.raises(PeftError, match="the same parameter") as caught:
        peftlang.from_hf(tied(), folder, example_inputs=INPUTS)
    assert caught.value.code == "I904"
    ours = peftlang.from_hf(untied(), folder, example_inputs=INPUTS)
    assert relative(ours(IDS), theirs(IDS)) < 1e-5


def test_a_tied_parameter_that_trains_is_written_for_each_module(tmp_path: Path) -> None:
    spec = 'from lora import lora\nadapter a {\n    lora(r = 2) at "q"\n    train "embed"\n}'
    ours = peftlang.compile(tied(), spec, example_inputs=INPUTS).eval()
    with torch.no_grad():
        for parameter in peftlang.adapters(ours)["default"].parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    folder = peftlang.to_hf(ours, tmp_path / "hf", example_inputs=INPUTS)
    assert relative(loaded(folder, tied)(IDS), ours(IDS)) < 1e-5
    back = peftlang.from_hf(tied(), folder, example_inputs=INPUTS)
    assert torch.equal(back(IDS), ours(IDS))


def test_tied_layers_that_are_adapted_together(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["embed"], ensure_weight_tying=True)
    folder = stored(trained(config, tied), tmp_path / "hf")
    with pytest.raises(PeftError, match="ensure_weight_tying") as caught:
        peftlang.from_hf(tied(), folder, example_inputs=INPUTS)
    assert caught.value.code == "I904"
    folder = stored(trained(lora(ensure_weight_tying=True), tied), tmp_path / "q")
    peftlang.from_hf(tied(), folder, example_inputs=INPUTS)


def test_names_of_heads_that_this_model_has_not(tmp_path: Path) -> None:
    """PEFT writes those of every kind of classifier."""
    folder = stored(trained(lora(modules_to_save=["head"]), untied), tmp_path / "hf")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["modules_to_save"] = ["classifier", "head", "score"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    ours = peftlang.from_hf(untied(), folder, example_inputs=INPUTS)
    assert peftlang.adapters(ours)["default"].plan.train.keys() == {"head.weight"}


@pytest.mark.parametrize("options", [{}, {"sparse": True}, {"very_sparse": True}])
def test_projections_that_are_not_stored_are_drawn(options: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="projection"):
        config = peft.RandLoraConfig(
            r=4, target_modules=["q", "up"], save_projection=False, projection_prng_key=7, **options
        )
    theirs = trained(config)
    ours = peftlang.from_hf(toy(), stored(theirs, tmp_path / "hf"), example_inputs=INPUTS)
    assert relative(ours(IDS), theirs(IDS)) < 1e-5
    plain = peft.RandLoraConfig(**{**config.to_dict(), "save_projection": True})
    back = load_file(peftlang.to_hf(ours, tmp_path / "back") / "adapter_model.safetensors")
    wanted = load_file(stored(trained(plain), tmp_path / "plain") / "adapter_model.safetensors")
    assert back.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in back.items())


def test_trained_rotations_come_back_to_the_last_digit(tmp_path: Path) -> None:
    """Steps from zero keep `oft`'s Q skew-symmetric, and PEFT stores its upper triangles."""
    ours = peftlang.compile(toy(), "oft", b=4, at='"layers.*.q"', example_inputs=INPUTS)
    view = peftlang.adapters(ours)["default"]
    optimizer = torch.optim.AdamW(view.parameters().values(), lr=0.05, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        ours(IDS).square().mean().backward()
        optimizer.step()
    back = peftlang.from_hf(toy(), peftlang.to_hf(ours, tmp_path / "hf"), example_inputs=INPUTS)
    before, after = view.tensors(), peftlang.adapters(back)["default"].tensors()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert float(value.detach().abs().max()) > 0.05
        assert torch.equal(value, after[name]), name


def test_options_that_no_form_has_together(tmp_path: Path) -> None:
    config = peft.OFTConfig(oft_block_size=4, target_modules=["q"], num_cayley_neumann_terms=40)
    folder = stored(trained(config), tmp_path / "hf")
    with pytest.raises(PeftError, match="`num_cayley_neumann_terms` = 40") as caught:
        peftlang.from_hf(toy(), folder, example_inputs=INPUTS)
    assert caught.value.code == "I904"

"""`place` and `places`: which alternative of the position names a site, and how many there are."""

from pathlib import Path

import pytest
import torch

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build
from tests.architectures.by_hand import batch

PRESET = "tiny-llama"
SCALED = """
method scaled {
    param s[places] ~ normal(std = 0.5) shared across model
    position attn.q, ffn.down in layers[1], attn.k, ffn.down
    composition W = (1.0 + s[place]) * W
}
"""
PLACES = {"self_attn.q_proj": 0, "self_attn.k_proj": 2}


def place(path: str) -> int:
    """By hand: the first of the alternatives above that means a module."""
    _, _, layer, *module = path.split(".")
    if module == ["mlp", "down_proj"]:
        return 1 if layer == "1" else 3
    return PLACES[".".join(module)]


def test_each_alternative_has_its_entry(tmp_path: Path) -> None:
    inputs = batch(PRESET)
    model = peftlang.compile(build(PRESET), SCALED)
    view = peftlang.adapters(model)["default"]
    (scales,) = view.parameters().values()
    assert tuple(scales.shape) == (4,)
    base = build(PRESET)
    for site in view.sites:
        weight = base.get_parameter(f"{site.path}.weight")
        weight.data *= 1 + scales[place(site.path)].detach()
    assert {place(site.path) for site in view.sites} == {0, 1, 2, 3}
    wanted = base(**inputs).logits
    assert torch.allclose(model(**inputs).logits, wanted, atol=1e-5)
    peftlang.save(model, tmp_path / "saved")
    again = peftlang.load(build(PRESET), tmp_path / "saved")
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert torch.allclose(peftlang.merge(model)(**inputs).logits, wanted, atol=1e-5)


def test_the_position_is_the_one_of_the_use() -> None:
    """`at` gives a method other alternatives, and so other places."""
    model = peftlang.compile(build(PRESET), SCALED, at="attn.v")
    (scales,) = peftlang.adapters(model)["default"].parameters().values()
    assert tuple(scales.shape) == (1,)


def test_an_entry_that_is_not_there() -> None:
    spec = SCALED.replace("s[places]", "s[3]")
    with pytest.raises(PeftError, match="entry number 3 of `3`") as error:
        peftlang.compile(build(PRESET), spec)(**batch(PRESET))
    assert error.value.code == "S408"


def test_a_number_is_no_size() -> None:
    with pytest.raises(PeftError, match="counted from 0") as error:
        peftlang.compile(build(PRESET), SCALED.replace("s[places]", "s[place]"))
    assert error.value.code == "T203"
    assert "`places`" in str(error.value.help)

"""`sharing A across uses`: a tensor that several uses of an adapter have in common."""

from pathlib import Path

import pytest
import torch

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.lower import build as lowered
from peftlang.lower import load
from peftlang.models import build
from tests.architectures.by_hand import batch

PRESET = "tiny-bart"
METHODS = """
method up(r: int = 4) {{
    param A[r, d_h] ~ normal(std = 0.3){how}
    param U[d_h, r] ~ normal(std = 0.3)
    position ffn in encoder
    composition h = h + U @ (A @ h)
}}
method down(r: int = 4) {{
    param A[r, d_h] ~ normal(std = 0.3){how}
    param V[d_h, r] ~ normal(std = 0.3)
    position attn in decoder
    composition h = h - V @ (A @ h)
}}
adapter both(r: int = 4) {{
    up(r = r)
    down(r = r)
    {clause}
}}
"""


def spec(
    how: str = " shared across stacks and roles", clause: str = "sharing A across uses"
) -> str:
    return METHODS.format(how=how, clause=clause)


def test_one_tensor_for_each_layer_of_both(tmp_path: Path) -> None:
    inputs = batch(PRESET)
    model = peftlang.compile(build(PRESET), spec())
    view = peftlang.adapters(model)["default"]
    tensors = view.parameters()
    assert [name for name in tensors if name.endswith(".A")] == ["up.shared.0.A", "up.shared.1.A"]
    assert len(tensors) == 2 + 4
    assert view.plan.trainable == 2 * 4 * 32 + 4 * 32 * 4
    apart = peftlang.compile(build(PRESET), spec(clause=""))
    own = peftlang.adapters(apart)["default"].parameters()
    for name, tensor in own.items():
        tensor.data.copy_(tensors[name.replace("down.shared", "up.shared")])
    wanted, found = apart(**inputs).logits, model(**inputs).logits
    assert torch.equal(found, wanted)
    found.square().mean().backward()
    wanted.square().mean().backward()
    for layer in (0, 1):
        alone = [own[f"{use}.shared.{layer}.A"].grad for use in ("up", "down")]
        together = tensors[f"up.shared.{layer}.A"].grad
        assert all(gradient is not None for gradient in [*alone, together])
        torch.testing.assert_close(together, alone[0] + alone[1])  # type: ignore[operator]
    peftlang.save(model, tmp_path / "saved")
    again = peftlang.load(build(PRESET), tmp_path / "saved")
    assert torch.equal(again(**inputs).logits, found)


def test_the_text_that_is_saved_says_which() -> None:
    """Within another adapter, what the inner one ties is its own uses alone."""
    text = (
        spec(clause="sharing A across down, up")
        + """
adapter outer {
    up(r = 2)
    both(r = 4)
}
"""
    )
    adapter = lowered(load(text), "outer")
    assert [(tie.tensor, tie.uses) for tie in adapter.ties] == [("A", ("down", "up_2"))]
    assert "sharing A across down, up_2" in adapter.source
    assert lowered(load(adapter.source)).ties == adapter.ties


@pytest.mark.parametrize(
    ("clause", "code", "says"),
    [
        ("sharing U across uses", "M306", "of `up` alone"),
        ("sharing Q across uses", "M306", "of no use here"),
        ("sharing U across up, down", "M306", "not of `down`"),
        ("sharing A across up, dawn", "N104", "no use `dawn`"),
        ("sharing A across uses\n    sharing A across up, down", "M301", "said twice"),
        ("sharing A across", "P012", "expected a name"),
    ],
)
def test_what_cannot_be_shared(clause: str, code: str, says: str) -> None:
    with pytest.raises(PeftError, match=says) as error:
        load(spec(clause=clause))
    assert error.value.code == code


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("normal(std = 0.3) shared", "normal(std = 0.4) shared", "start it otherwise"),
        ("A[r, d_h] ~ normal(std = 0.3) shared", "A[r] ~ zeros shared", "other dimensions"),
        ("stacks and roles", "model", "other axes"),
        ("param A", "buffer A", "do not both train it"),
        ("position attn", "rate A = 2\n    position attn", "other rates"),
    ],
)
def test_declared_otherwise(old: str, new: str, says: str) -> None:
    first, second = spec().split("method down")
    changed = second.replace(old, new)
    if "A[r] ~" in changed:
        changed = changed.replace("V @ (A @ h)", "V @ A")
    with pytest.raises(PeftError, match=says) as error:
        load(f"{first}method down{changed}")
    assert error.value.code == "M320"


def test_sites_that_never_meet() -> None:
    with pytest.raises(PeftError, match="one of its own at every site") as error:
        peftlang.compile(build(PRESET), spec(how=""))
    assert error.value.code == "S425"


def test_sizes_that_differ() -> None:
    text = spec().replace("down(r = r)", "down(r = r + 1)")
    with pytest.raises(PeftError, match=r"\[4, 32\] at .*encoder.*\[5, 32\] at .*decoder") as error:
        peftlang.compile(build(PRESET), text)
    assert error.value.code == "S409"


@pytest.mark.parametrize("axis", ["model and layers", "stacks and stacks", "stack and roles"])
def test_axes_that_cannot_be_joined(axis: str) -> None:
    with pytest.raises(PeftError, match="one of these says it all") as error:
        load(spec(how=f" shared across {axis}"))
    assert error.value.code == "M307"


def test_peft_has_no_such_adapter(tmp_path: Path) -> None:
    text = """from lora import lora
adapter both(r: int = 4) {
    lora(r = r) at attn.q with sharing A across roles
    lora(r = r) at attn.v with sharing A across roles
    sharing A across lora, lora_2
}
"""
    model = peftlang.compile(build("tiny-bert"), text)
    assert len(peftlang.adapters(model)["default"].parameters()) == 2 + 4
    with pytest.raises(PeftError, match="shares `A` across roles"):
        peftlang.to_hf(model, tmp_path / "theirs")

"""`hf:NAME`: specs of the library against PEFT's own layers, and what is said when that fails."""

import sys

import pytest

from peftlang.diagnostics import PeftError
from peftlang.verifying import compare, load_reference

NAMES = [
    "lora",
    "rslora",
    "dora",
    "ia3",
    "vera",
    "oft",
    "boft",
    "fourierft",
    "loha",
    "lokr",
    "hra",
    "randlora",
    "miss",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_equals_peft(name: str) -> None:
    compared = compare(name, load_reference(f"hf:{name}"), examples=6, seed=0)
    assert compared.failure is None, compared.failure
    assert compared.examples > 0


def test_the_gradient_that_peft_has_wrong_is_found() -> None:
    """PEFT's C3A hands back another gradient than that of its forward; outputs agree."""
    failure = compare("c3a", load_reference("hf:c3a"), examples=12, seed=0).failure
    assert failure is not None
    assert failure.difference.what == "gradient of x"


def test_another_method_is_told_apart() -> None:
    assert compare("rslora", load_reference("hf:lora"), examples=10, seed=0).failure is not None


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(PeftError, match="V810") as caught:
        load_reference("hf:dorra")
    assert "dora" in str(caught.value)


def test_other_tensors_are_named() -> None:
    with pytest.raises(PeftError, match="I907"):
        compare("oft", load_reference("hf:lora"), examples=2, seed=0)


def test_without_peft_the_remedy_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PeftError, match="I910") as caught:
        load_reference("hf:lora")
    assert "pip install peft" in str(caught.value)

"""Texts of options become values."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlang.cli.options import clauses, settings
from peftlang.diagnostics import PeftError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("r=16", 16),
        ("r = -2", -2),
        ("alpha=16.0", 16.0),
        ("alpha=1e-3", 1e-3),
        ("on=true", True),
        ("on=false", False),
        ("act=gelu", "gelu"),
        ('name="a = b"', "a = b"),
    ],
)
def test_a_setting_has_the_type_that_it_looks_like(text: str, value: object) -> None:
    (found,) = settings([text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["", "r", "r=", "=8", "2r=8", "r s=8"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(PeftError) as caught:
        settings([text])
    assert caught.value.code == "C702"


def test_a_name_is_set_once() -> None:
    with pytest.raises(PeftError, match="set twice"):
        settings(["r=8", "r=16"])


@given(st.integers())
def test_every_integer_is_read(value: int) -> None:
    assert settings([f"r={value}"]) == {"r": value}


@given(st.floats(allow_nan=False))
def test_every_float_is_read(value: float) -> None:
    assert settings([f"r={value!r}"]) == {"r": value}


@given(st.text())
def test_any_text_is_a_setting_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(PeftError):
        assert len(settings([text])) == 1


def test_a_clause_is_written_as_in_a_spec() -> None:
    assert clauses(["insertion=sequential"]) == ("insertion sequential",)
    assert clauses(["composition = h = h + 2 * delta"]) == ("composition h = h + 2 * delta",)
    assert clauses(None) == ()


def test_an_unknown_clause_names_the_nearest() -> None:
    with pytest.raises(PeftError) as caught:
        clauses(["insertoin=parallel"])
    assert caught.value.code == "C705"
    assert "insertion" in (caught.value.help or "")

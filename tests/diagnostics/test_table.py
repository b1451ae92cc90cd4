"""The table of codes is whole."""

import re

import pytest

from peftlang.diagnostics import CODES, Code, explain, nearest
from peftlang.diagnostics.codes import FAMILIES
from peftlang.diagnostics.nearest import did_you_mean

LETTERS = dict(zip("PNTMSRDCVI", "0123456789", strict=True))


def test_no_code_has_two_meanings() -> None:
    entries = [entry for family in FAMILIES for entry in family]
    assert len(entries) == len({entry.code for entry in entries}) == len(CODES)


def test_each_family_has_one_letter_and_its_hundred() -> None:
    assert len(FAMILIES) == len(LETTERS)
    for family, letter in zip(FAMILIES, LETTERS, strict=True):
        codes = [entry.code for entry in family]
        assert all(re.fullmatch(rf"{letter}{LETTERS[letter]}\d\d", code) for code in codes)


@pytest.mark.parametrize("entry", CODES.values(), ids=lambda entry: entry.code)
def test_each_entry_says_what_a_person_needs(entry: Code) -> None:
    assert entry.title
    assert entry.explanation.endswith((".", "!"))
    assert entry.example.strip()
    page = explain(entry.code)
    assert page.startswith(f"{entry.code}: {entry.title}\n\n")
    assert ("\nMended:\n" in page) == (entry.fixed is not None)


def test_nearest() -> None:
    words = ["function", "insertion", "position", "param"]
    assert nearest("functoin", words) == ["function"]
    assert nearest("Param", words) == ["param"]
    assert nearest("position", words) == []
    assert nearest("zzz", words) == []
    assert nearest("x" * 100_000, words) == []
    assert nearest("sertion", words, count=2) == ["insertion", "position"]
    assert did_you_mean("positon", words) == "did you mean `position`?"
    assert did_you_mean("zzz", words) is None


def test_nearest_does_not_depend_on_order() -> None:
    words = ["attn.q", "attn.k", "attn.v"]
    assert nearest("attn.x", words) == nearest("attn.x", reversed(words))

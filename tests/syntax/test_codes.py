"""The example of each code of this family gives that code and no other; the mended text none."""

import pytest

from peftlang.diagnostics import CODES, Code
from peftlang.syntax import parse_text

ALL = list(CODES.values())
MINE = [entry for entry in ALL if entry.code.startswith("P") and entry.runs]


def codes(text: str) -> list[str]:
    return [diagnostic.code for diagnostic in parse_text(text)[1]]


@pytest.mark.parametrize("entry", MINE, ids=lambda entry: entry.code)
def test_the_example_is_wrong_in_this_way_alone(entry: Code) -> None:
    assert codes(entry.example) == [entry.code]


@pytest.mark.parametrize(
    "entry", [e for e in ALL if e.runs and e.fixed is not None], ids=lambda entry: entry.code
)
def test_the_mended_text_parses(entry: Code) -> None:
    assert entry.fixed is not None
    assert codes(entry.fixed) == []


@pytest.mark.parametrize(
    "entry", [e for e in ALL if e.runs and e not in MINE], ids=lambda entry: entry.code
)
def test_examples_of_later_stages_get_past_the_parser(entry: Code) -> None:
    assert codes(entry.example) == []

"""The table of codes is whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from peftlang.diagnostics import CODES, Code, explain, nearest
from peftlang.diagnostics.codes import FAMILIES, entries, page
from peftlang.diagnostics.nearest import did_you_mean

FOLDER = Path(__file__).parents[2] / "peftlang" / "diagnostics" / "codes"
LETTERS = dict(zip("PNTMSRDCVI", "0123456789", strict=True))


def test_no_code_has_two_meanings() -> None:
    every = [entry for letter in FAMILIES for entry in entries(page(letter))]
    assert len(every) == len({entry.code for entry in every}) == len(CODES)


def test_each_family_has_one_letter_and_its_hundred() -> None:
    assert list(FAMILIES) == list(LETTERS)
    for letter in FAMILIES:
        codes = [entry.code for entry in entries(page(letter))]
        assert codes == sorted(codes)
        assert all(re.fullmatch(rf"{letter}{LETTERS[letter]}\d\d", code) for code in codes)


def test_each_page_is_of_a_family() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(FAMILIES.values())


@pytest.mark.parametrize("letter", FAMILIES)
def test_all_that_stands_on_a_page_is_read(letter: str) -> None:
    """A heading, a fence or a code that is written otherwise would be passed over."""
    text = page(letter)
    read = entries(text)
    assert re.match(r"# \S[^\n]*\n\n## ", text)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert prose.count("\n#") == len(read)
    fences = [line for line in text.splitlines() if line.startswith("```")]
    raising = [f"```peft code={entry.code}" for entry in read if entry.runs]
    mended = [entry for entry in read if entry.fixed is not None]
    assert [line for line in fences if "code=" in line] == raising
    assert len(fences) == 2 * (len(raising) + len(mended))
    assert text.count("\nMended:\n") == len(mended)
    assert text.count("\nFor example: ") == len(read) - len(raising)


def test_the_pages_are_not_read_before_they_are_asked_for() -> None:
    code = (
        "import peftlang.diagnostics.codes as c; from peftlang.diagnostics import CODES;"
        "assert c._all.cache_info().currsize == 0; CODES['T201'];"
        "assert c._all.cache_info().currsize == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_code_is_none() -> None:
    assert "T999" not in CODES
    with pytest.raises(KeyError):
        explain("T999")


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

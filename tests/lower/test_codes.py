"""Every code of the checker has an example that produces it, and a mended text that does not."""

import pytest

from peftlang.diagnostics import CODES, Code, Source
from peftlang.lower import check

MINE = [entry for code, entry in CODES.items() if code[0] in "NTMS" and entry.runs]
MENDED = [entry for entry in MINE if entry.fixed is not None]


@pytest.mark.parametrize("entry", MINE, ids=lambda entry: entry.code)
def test_the_example_produces_the_code_and_no_other(entry: Code) -> None:
    found = {diagnostic.code for diagnostic in check([Source("example.peft", entry.example)])}
    assert found == {entry.code}


@pytest.mark.parametrize("entry", MENDED, ids=lambda entry: entry.code)
def test_the_mended_text_is_right(entry: Code) -> None:
    assert entry.fixed is not None
    found = check([Source("fixed.peft", entry.fixed)])
    assert [diagnostic for diagnostic in found if diagnostic.severity == "error"] == []


@pytest.mark.parametrize(
    ("declared", "given"),
    [("integer = 8", ""), ("number", "r = 1"), ('text = "eight"', ""), ("inn = 0.5", "")],
)
def test_a_type_that_is_none_is_one_error(declared: str, given: str) -> None:
    """And no second one, for what was meant is guessed and its value is not asked for."""
    clauses = "param A[r, d_x] ~ zeros position block composition h = sum(A) * h"
    text = f"method m(r: {declared}) {{ {clauses} }} adapter a {{ m({given}) }}"
    found = check([Source("a.peft", text)])
    assert [diagnostic.code for diagnostic in found] == ["P016"]


def test_a_method_may_prepare_for_another_that_trains() -> None:
    idle = "method places { buffer Z[2, d_h] ~ zeros position prompt composition h = concat(Z, h) }"
    trained = "method m { param s[d_x] ~ ones position block composition x = s * x }"
    alone, both = "adapter a { places() }", "adapter a {\nplaces()\nm()\n}"
    found = [check([Source("a.peft", f"{idle} {trained} {use}")]) for use in (alone, both)]
    assert [[diagnostic.code for diagnostic in one] for one in found] == [["M311"], []]

"""Codes in the source and codes in the table are the same codes."""

import re
from pathlib import Path

from peftlang.diagnostics import CODES

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"[\"'`]([PNTMSRDCVI][0-9]{3})[\"'`:]")

RETIRED = {"R507", "R509", "R510"}
"""Codes that had a meaning once, and get no other."""


def used() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in [*ROOT.glob("peftlang/**/*.py"), *ROOT.glob("passes/**/*.py")]:
        if "codes" not in path.parts:
            for code in CODE.findall(path.read_text("utf-8")):
                found.setdefault(code, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_code_that_is_raised_is_in_the_table() -> None:
    unknown = {code: sorted(places) for code, places in used().items() if code not in CODES}
    assert not unknown


def test_every_code_in_the_table_is_raised() -> None:
    assert sorted(set(CODES) - set(used())) == []


def test_no_retired_code_comes_back() -> None:
    assert not RETIRED & (set(CODES) | set(used()))

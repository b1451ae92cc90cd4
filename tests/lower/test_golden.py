"""Specs beside what they lower to, and wrong specs beside their whole diagnostics."""

import re
from pathlib import Path

import pytest

from peftlang.diagnostics import Source, render
from peftlang.lower import build, check, load
from tests.lower import dumps

HERE = Path(__file__).parent / "golden"
RIGHT = sorted((HERE / "right").glob("*.peft"))
WRONG = sorted((HERE / "wrong").glob("*.peft"))


def compared(path: Path, found: str, update: bool) -> None:
    beside = path.with_suffix(".txt")
    if update:
        beside.write_text(found, encoding="utf-8")
    assert beside.read_text("utf-8") == found


@pytest.mark.parametrize("path", RIGHT, ids=lambda path: path.stem)
def test_what_it_lowers_to(path: Path, update_golden: bool) -> None:
    compared(path, dumps.adapter(build(load(path))), update_golden)


@pytest.mark.parametrize("path", WRONG, ids=lambda path: path.stem)
def test_what_is_wrong_with_it(path: Path, update_golden: bool) -> None:
    source = Source(path.name, path.read_text("utf-8"), path)
    compared(path, render(check([source])), update_golden)


def test_wrong_specs_say_what_they_expect() -> None:
    """A wrong spec names its codes in comments, `# E: T201`, on the line at fault."""
    assert WRONG
    for path in WRONG:
        source = Source(path.name, path.read_text("utf-8"), path)
        expected = {
            (number, code)
            for number, line in enumerate(source.text.splitlines(), 1)
            for code in re.findall(r"[A-Z]\d{3}", line.partition("# E:")[2])
        }
        found = {
            (source.position(d.span.start)[0], d.code)
            for d in check([source])
            if d.span is not None
        }
        assert found == expected, path.name

"""The generated parts of the documentation are what the code would generate now."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import errors_page, pages, with_region
from docs.library import SPECS, parameters, source
from peftlang.diagnostics import CODES
from peftlang.lower import build, load

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_pages_are_up_to_date() -> None:
    for path, expected in pages().items():
        assert path.read_text("utf-8") == expected, f"{path.name} is old: run `make docs`"


def test_every_code_is_listed_with_a_link_to_what_is_said_of_it() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\((\S+?)#(\S+)\) \|", errors_page(), re.MULTILINE)
    assert [code for code, _, _ in listed] == list(CODES)
    for code, path, anchor in listed:
        text = (DOCS / path).read_text("utf-8")
        assert f"## {code}: {CODES[code].title}\n" in text
        assert anchor.startswith(code.lower() + "-")


def test_a_missing_region_is_said() -> None:
    with pytest.raises(ValueError, match="no region 'functions'"):
        with_region("nothing here", "functions", "text")


def test_every_spec_names_its_source() -> None:
    unnamed = [p.stem for p in SPECS.glob("*.peft") if not source(build(load(p)).doc)]
    assert not unnamed, "say `Authors YEAR` in the documentation"


def test_shared_numbers_are_counted_apart() -> None:
    (use,) = build(load("compacter")).uses
    assert parameters(use) == "`3 * d_h + 3 * r`<br>`n ** 3` across model"


def test_generating_needs_no_torch() -> None:
    code = "import sys, docs.generate as g; g.pages(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr

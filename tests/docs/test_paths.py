"""Every file and folder that the pages name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

NAMED = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
ANY = re.compile(r"NAME|KIND|FAMILY")
LINKED = re.compile(r"\]\(((?!http)[^)#]+)[^)]*\)")
TOPS = {path.name for path in ROOT.iterdir() if path.is_dir()}


def named(text: str) -> set[str]:
    """Paths in the text outside of fences; those with a word of `ANY` stand for any."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {path for path in NAMED.findall(prose) if not ANY.search(path)}


def exists(path: str) -> bool:
    """Whether it is there, from the root or, as the tour says it, from within the package."""
    return any((top / path).exists() for top in (ROOT, ROOT / "peftlang"))


def is_ours(path: str) -> bool:
    first = path.partition("/")[0]
    return first in TOPS or (ROOT / "peftlang" / first).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    gone = {path for path in named(page.read_text("utf-8")) if is_ours(path) and not exists(path)}
    assert not gone


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    gone = [to for to in LINKED.findall(page.read_text("utf-8")) if not (page.parent / to).exists()]
    assert not gone


def test_a_path_that_is_gone_is_seen() -> None:
    text = "`passes/dataflow/`, `emit/evaluate.py`, `passes/NAME.py`\n```\n`passes/gone.py`\n```\n"
    assert named(text) == {"passes/dataflow/", "emit/evaluate.py"}
    assert [exists(path) for path in sorted(named(text))] == [True, False]
    assert all(map(is_ours, named(text)))

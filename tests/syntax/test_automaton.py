"""The kept tables are the grammar's own, or are made again."""

import sys
from pathlib import Path

import pytest

from peftlang.syntax.automaton import kept, made

GRAMMAR = Path(__file__).parents[2] / "grammar" / "peft.lark"


@pytest.fixture
def grammar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    copy = tmp_path / "peft.lark"
    copy.write_bytes(GRAMMAR.read_bytes())
    return copy


def caches(grammar: Path) -> list[Path]:
    return list((grammar.parent / "__pycache__").glob("*"))


def test_what_is_kept_is_what_was_made(grammar: Path) -> None:
    wanted = made(grammar.read_text(encoding="utf-8"))
    assert kept(grammar) == wanted
    (cache,) = caches(grammar)
    written = cache.stat().st_mtime_ns
    assert kept(grammar) == wanted
    assert cache.stat().st_mtime_ns == written


def test_another_grammar_has_tables_of_its_own(grammar: Path) -> None:
    before = kept(grammar)
    text = grammar.read_text(encoding="utf-8").replace("hyper_list", "hyper_row")
    assert "hyper_row" in text
    grammar.write_text(text, encoding="utf-8")
    assert kept(grammar) == made(text) != before


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"every": [{"no": 1}]}', b"[]"])
def test_a_damaged_cache_is_made_again(grammar: Path, damage: bytes) -> None:
    wanted = kept(grammar)
    (cache,) = caches(grammar)
    cache.write_bytes(damage)
    assert kept(grammar) == wanted
    assert cache.read_bytes() != damage


def test_nothing_is_written_where_python_is_told_not_to(
    grammar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    kept(grammar)
    assert caches(grammar) == []


def test_a_place_that_cannot_be_written_is_no_error(grammar: Path) -> None:
    (grammar.parent / "__pycache__").write_text("in the way")
    assert kept(grammar) == made(grammar.read_text(encoding="utf-8"))

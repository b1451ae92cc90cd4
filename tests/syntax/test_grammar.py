"""The kept parser is the grammar's own, or is made again; every rule has an action."""

import sys
from pathlib import Path
from typing import Any

import pytest
from lark import Lark

from peftlang.syntax.build import ACTIONS
from peftlang.syntax.grammar import made

GRAMMAR = Path(__file__).parents[2] / "grammar" / "peft.lark"
TEXT = GRAMMAR.read_text("utf-8")


@pytest.fixture
def grammar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a grammar could be, beside which nothing is kept yet."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    (tmp_path / "__pycache__").mkdir()
    return tmp_path / "peft.lark"


def kept(grammar: Path) -> list[Path]:
    return list((grammar.parent / "__pycache__").glob("*"))


def tables(lark: Lark) -> tuple[int, set[str]]:
    """How many states a parser has, and its terminals."""
    states = lark.parse_interactive("").parser_state.parse_conf.states
    return len(states), {str(symbol) for steps in states.values() for symbol in steps}


def test_what_is_kept_is_what_was_made(grammar: Path) -> None:
    wanted = tables(made(TEXT, None))
    assert tables(made(TEXT, grammar)) == wanted
    (file,) = kept(grammar)
    written = file.stat().st_mtime_ns
    assert tables(made(TEXT, grammar)) == wanted
    assert file.stat().st_mtime_ns == written


def test_another_grammar_is_made_anew(grammar: Path) -> None:
    before = tables(made(TEXT, grammar))
    text = TEXT.replace("parameter:", "hyper:").replace("(parameter", "(hyper")
    other = text.replace('"," parameter', '"," hyper')
    assert tables(made(other, grammar)) == tables(made(other, None)) != before


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b"\n\x80\x04N.", b"[]"])
def test_a_damaged_file_is_made_again(grammar: Path, damage: bytes) -> None:
    wanted = tables(made(TEXT, grammar))
    (file,) = kept(grammar)
    whole = file.read_bytes()
    for part in (damage, whole[: len(whole) // 2]):
        file.write_bytes(part)
        assert tables(made(TEXT, grammar)) == wanted
        assert file.read_bytes().splitlines()[0] == whole.splitlines()[0]
        written = file.stat().st_mtime_ns
        made(TEXT, grammar)
        assert file.stat().st_mtime_ns == written


def test_nothing_is_written_where_python_is_told_not_to(
    grammar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made(TEXT, grammar)
    assert kept(grammar) == []


def test_a_place_that_cannot_be_written_is_no_error(
    grammar: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (grammar.parent / "__pycache__").rmdir()
    (grammar.parent / "__pycache__").write_text("in the way")
    assert tables(made(TEXT, grammar)) == tables(made(TEXT, None))
    assert capfd.readouterr() == ("", "")


def test_every_rule_has_an_action_and_every_action_a_rule() -> None:
    lark = made(TEXT, None)
    rules: set[Any] = {rule.alias or rule.origin.name for rule in lark.rules if acts(rule)}
    terminals = {terminal.name for terminal in lark.terminals}
    assert set(ACTIONS) - terminals == {str(rule) for rule in rules}
    assert {name for name in ACTIONS if name.isupper()} <= terminals


def acts(rule: Any) -> bool:
    """Whether something is made where a rule ends: not of lists, nor of one value handed on."""
    handed_on = rule.alias is None and rule.options.expand1 and len(rule.expansion) == 1
    return not (rule.origin.name.startswith("_") or handed_on)

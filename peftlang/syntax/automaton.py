"""lark's LALR tables for a grammar, kept beside it as Python keeps its bytecode."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """How many values a rule takes, what it makes of them, and where parsing then goes on.

    `callback` is the name of a method, None where the one value is handed on.
    """

    size: int
    callback: str | None
    origin: str


@dataclass(frozen=True, slots=True)
class Tables:
    """The grammar as an LALR automaton.

    For each state: the states that a terminal, or a finished rule, leads to; and the rules
    that a terminal finishes.
    """

    shifts: list[dict[str, int]]
    rules: list[dict[str, Rule]]
    start: int
    end: int


def kept(grammar: Traversable) -> Tables:
    """The tables of `grammar`: read where they were kept, else made (about 0.1 s) and kept.

    They are kept in `__pycache__`, under a name that tells the grammar and lark's version; where
    nothing can be written there, or Python is told to write no bytecode, they are made each time.
    """
    text = grammar.read_text(encoding="utf-8")
    place = _place(grammar, text)
    if place is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            return _from_json(json.loads(place.read_text(encoding="utf-8")))
    tables = made(text)
    if place is not None and not sys.dont_write_bytecode:
        with contextlib.suppress(OSError):
            _write(place, json.dumps(_to_json(tables), separators=(",", ":")))
    return tables


def made(grammar: str) -> Tables:
    """The tables of a grammar in lark's notation, made by lark."""
    from lark import Lark
    from lark.lexer import Lexer
    from lark.parsers.lalr_analysis import Shift

    class NoLexer(Lexer):
        """Tokens come from this package's own lexer; lark is asked for the tables alone."""

        __future_interface__ = 2

        def __init__(self, _: Any) -> None: ...

        def lex(self, *_: Any) -> Any:
            return iter(())

    lark = Lark(grammar, parser="lalr", lexer=NoLexer)
    conf = lark.parse_interactive("").parser_state.parse_conf
    known = {rule: _rule(rule) for rule in lark.rules}
    number = _numbered(conf.states, conf.start_state, Shift)
    shifts: list[dict[str, int]] = [{} for _ in number]
    rules: list[dict[str, Rule]] = [{} for _ in number]
    for state, steps in conf.states.items():
        for symbol, (action, target) in steps.items():
            if action is Shift:
                shifts[number[state]][str(symbol)] = number[target]
            else:
                rules[number[state]][str(symbol)] = known[target]
    return Tables(shifts, rules, number[conf.start_state], number[conf.end_state])


def _numbered(states: Mapping[Any, Any], start: Any, shift: Any) -> dict[Any, int]:
    """States in the order in which they are reached: lark's own differs from run to run."""
    number = {start: 0}
    for state in (waiting := [start]):
        for _, (action, target) in sorted((str(k), step) for k, step in states[state].items()):
            if action is shift and target not in number:
                number[target] = len(number)
                waiting.append(target)
    return number


def _rule(rule: Any) -> Rule:
    size = len(rule.expansion)
    handed_on = rule.alias is None and rule.options.expand1 and size == 1
    name = str(rule.origin.name)
    return Rule(size, None if handed_on else str(rule.alias or name), name)


def _place(grammar: Traversable, text: str) -> Path | None:
    if not isinstance(grammar, Path):
        return None
    told = sha256(f"{version('lark')} {__name__} 1 {text}".encode()).hexdigest()[:16]
    return grammar.parent / "__pycache__" / f"{grammar.name}.{told}.json"


def _write(place: Path, text: str) -> None:
    """Write beside the place and rename, so that no other process reads half a file."""
    place.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=place.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink()
        raise


def _to_json(tables: Tables) -> dict[str, Any]:
    every = list(dict.fromkeys(rule for steps in tables.rules for rule in steps.values()))
    number = {rule: index for index, rule in enumerate(every)}
    return {
        "every": [asdict(rule) for rule in every],
        "rules": [{key: number[rule] for key, rule in steps.items()} for steps in tables.rules],
        "shifts": tables.shifts,
        "start": tables.start,
        "end": tables.end,
    }


def _from_json(data: Mapping[str, Any]) -> Tables:
    every = [Rule(**entry) for entry in data["every"]]
    rules = [{key: every[index] for key, index in steps.items()} for steps in data["rules"]]
    return Tables(data["shifts"], rules, data["start"], data["end"])

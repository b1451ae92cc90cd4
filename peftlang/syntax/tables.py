"""lark's LALR tables, and the machine that runs them so that it can be set back."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark
from lark.lexer import Lexer as LarkLexer
from lark.parsers.lalr_analysis import Shift

from peftlang.syntax.lexer import Token


class _NoLexer(LarkLexer):
    """Tokens come from this package's own lexer; lark is asked for the tables alone."""

    __future_interface__ = 2

    def __init__(self, _: Any) -> None: ...

    def lex(self, *_: Any) -> Any:
        return iter(())


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


@cache
def tables() -> Tables:
    """The tables of the grammar, made once in a process (about 50 ms)."""
    grammar = files("peftlang.grammar").joinpath("peft.lark").read_text(encoding="utf-8")
    lark = Lark(grammar, parser="lalr", lexer=_NoLexer)
    conf = lark.parse_interactive("").parser_state.parse_conf
    known = {rule: _rule(rule) for rule in lark.rules}
    number = {state: index for index, state in enumerate(conf.states)}
    shifts: list[dict[str, int]] = [{} for _ in number]
    rules: list[dict[str, Rule]] = [{} for _ in number]
    for state, steps in conf.states.items():
        for symbol, (action, target) in steps.items():
            if action is Shift:
                shifts[number[state]][str(symbol)] = number[target]
            else:
                rules[number[state]][str(symbol)] = known[target]
    return Tables(shifts, rules, number[conf.start_state], number[conf.end_state])


def _rule(rule: Any) -> Rule:
    size = len(rule.expansion)
    handed_on = rule.alias is None and rule.options.expand1 and size == 1
    name = str(rule.origin.name)
    return Rule(size, None if handed_on else str(rule.alias or name), name)


class Rejected(Exception):
    """The token cannot stand here."""


Snapshot = tuple[list[int], list[Any]]


class Machine:
    """One reading: the two stacks of an LALR parser.

    `callbacks` is an object with one method for each rule or alias that makes a node.
    """

    def __init__(self, callbacks: object) -> None:
        self._tables = tables()
        self._callbacks = callbacks
        self._stack: list[int] = [self._tables.start]
        self._values: list[Any] = []

    def save(self) -> Snapshot:
        """The state to go back to; values are shared, so callbacks must not change them."""
        return list(self._stack), list(self._values)

    def restore(self, snapshot: Snapshot) -> None:
        """Go back."""
        self._stack, self._values = list(snapshot[0]), list(snapshot[1])

    def feed(self, token: Token) -> None:
        """Take one token.

        Raises Rejected, and what a callback raises; then the state is half-way and must be
        restored.
        """
        kind, stack = token.type, self._stack
        shifts, rules, end = self._tables.shifts, self._tables.rules, self._tables.end
        while True:
            target = shifts[stack[-1]].get(kind)
            if target is not None:
                stack.append(target)
                self._values.append(token)
                return
            rule = rules[stack[-1]].get(kind)
            if rule is None:
                raise Rejected
            self._reduce(rule)
            if kind == "$END" and stack[-1] == end:
                return

    def _reduce(self, rule: Rule) -> None:
        stack, values, size = self._stack, self._values, rule.size
        children: list[Any] = []
        if size:
            del stack[-size:]
            if rule.callback is not None:
                children = values[-size:]
                del values[-size:]
        if rule.callback is not None:
            values.append(getattr(self._callbacks, rule.callback)(children))
        stack.append(self._tables.shifts[stack[-1]][rule.origin])

    def accepts(self, terminal: str) -> bool:
        """Whether a token of this type could come next."""
        stack = list(self._stack)
        while True:
            if terminal in self._tables.shifts[stack[-1]]:
                return True
            rule = self._tables.rules[stack[-1]].get(terminal)
            if rule is None:
                return False
            if rule.size:
                del stack[-rule.size :]
            stack.append(self._tables.shifts[stack[-1]][rule.origin])
            if terminal == "$END" and stack[-1] == self._tables.end:
                return True

    @property
    def result(self) -> Any:
        """What the whole text became, after `$END`."""
        return self._values[-1]

"""The machine that runs the grammar's LALR tables so that it can be set back."""

from functools import cache
from importlib.resources import files
from typing import Any

from peftlang.syntax.automaton import Rule, Tables, kept
from peftlang.syntax.lexer import Token


@cache
def tables() -> Tables:
    """The tables of the grammar, made or read once in a process."""
    return kept(files("peftlang.grammar").joinpath("peft.lark"))


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

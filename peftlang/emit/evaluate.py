"""What a method does at a site, over graph values and over tensors alike.

This is the one place that says it:

- All clauses of a method read the values as the method finds them, and it finds what those before
  it have made.
- Clauses on what the site reads (``x``, ``W``, ``b``, ``q``, ``k``, ``v``, …) act before it
computes,
  all of them before any clause on ``h``; ``h`` is then what it computes from the new operands.
- Where the insertion is sequential, ``x`` is the site's output.
- A role may be some of the rows of a projection. Its ``W``, ``b`` and ``h`` are those rows; ``x``
is
  common to all rows, so that a change of it there is of the role's own copy.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from peftlang.emit.applications import Acts
from peftlang.emit.rows import scattered, select
from peftlang.ir.expr import Expr
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Composition
from peftlang.ir.plan import Rows
from peftlang.ir.types import Level

Values = Mapping[str, Any]
"""Names of a site with what they are there, laid out ``[*implicit, *dims]``."""

Interpret = Callable[[Any, Values], Interpreter]
"""Gives what evaluates a method's expressions, given the values that the method finds."""


def interpreter(
    application: Acts, values: Values, tensor: Callable[[Any, str], Any], **options: Any
) -> Interpreter:
    """What evaluates a method's expressions at a site.

    Args:
        application: The method, at the site.
        values: The site's names, as the method finds them.
        tensor: Gives the method's own tensor or input of a name, or None where it has none.
        **options: As for `Interpreter`.
    """

    def lookup(name: str) -> Any:
        own = tensor(application, name)
        if own is not None:
            return own
        follows = name == "x" and application.method.insertion == "sequential"
        return values["h" if follows else name]

    return Interpreter(torch, application.sizes, lookup, **options)


class Operands:
    """What a site reads, while methods act on it or on some of its rows.

    Args:
        values: ``x``, ``W``, ``b``, … of the whole.
    """

    def __init__(self, values: Values) -> None:
        self.values = dict(values)
        self._own: dict[Rows, Any] = {}

    def of(self, rows: Rows | None) -> dict[str, Any]:
        """The operands of some of the rows; of all for None."""
        if rows is None:
            return dict(self.values)
        part = {
            name: select(value, rows, axis=0) if name in {"W", "b"} else value
            for name, value in self.values.items()
        }
        if rows in self._own:
            part["x"] = self._own[rows]
        return part

    def put(self, rows: Rows | None, changed: Values) -> None:
        """Give some of the rows new operands."""
        for name, value in changed.items():
            if rows is None:
                self.values[name] = value
            elif name == "x":
                self._own[rows] = value
            else:
                self.values[name] = scattered(self.values[name], value, rows, axis=0)

    def with_parts(self, h: Any) -> Any:
        """What the site made of the whole's operands; parts with an ``x`` of their own, of that."""
        for rows in self._own:
            part = self.of(rows)
            made = torch.nn.functional.linear(part["x"], part["W"], part.get("b"))
            h = scattered(h, made, rows, axis=-1)
        return h


Settle = Callable[[Any, Composition, Any, Any], Any]
"""Brings a new value to the number type of the old one: method, clause, new value, old value."""


def _as_it_is(_application: Acts, _clause: Composition, value: Any, _old: Any) -> Any:
    return value


_OF_TOKENS = frozenset({"h", "x", "q", "k", "v"})


def _each(clause: Composition, evaluate: Interpreter, old: Values) -> Any:
    """The new value of a target; one that is alike for all tokens, for each of them."""
    value = evaluate(clause.value)
    if clause.target in _OF_TOKENS and clause.value.type.level is Level.CONST:
        return value.expand_as(old[clause.target])
    return value


Finding = tuple[Any, Rows | None, dict[str, Any]]
"""A method, the rows that it acts on, and the operands that it finds."""


def change_operands(
    acting: Iterable[tuple[Any, Rows | None]],
    operands: Operands,
    interpret: Interpret,
    settle: Settle = _as_it_is,
) -> list[Finding]:
    """Let methods act on what a site reads, in order; each with the operands that it finds."""
    found: list[Finding] = []
    for application, rows in acting:
        values = operands.of(rows)
        found.append((application, rows, values))
        if application.operands:
            evaluate = interpret(application, values)
            made = {
                c.target: settle(application, c, _each(c, evaluate, values), values[c.target])
                for c in application.operands
            }
            operands.put(rows, made)
    return found


def change_results(
    found: Iterable[Finding],
    h: Any,
    interpret: Interpret,
    settle: Settle = _as_it_is,
    hand_on: Callable[[Any, Interpreter, Composition, Any], None] | None = None,
    penalise: Callable[[Any, Interpreter, Expr], None] | None = None,
) -> Any:
    """Let methods act on what a site made of its operands, in order.

    Args:
        found: From ``change_operands``.
        h: What the site made of the new operands.
        interpret: As there.
        settle: As there.
        hand_on: Takes the new value of a carried state.
        penalise: Takes a penalty of what runs here.

    Returns:
        ``h`` after every change of it.
    """
    for application, rows, operands in found:
        if not application.results and not (penalise and application.penalties):
            continue
        own = h if rows is None or h is None else select(h, rows, axis=-1)
        evaluate = interpret(application, operands if own is None else {**operands, "h": own})
        made = [
            (c, settle(application, c, _each(c, evaluate, {"h": own}), own))
            for c in application.results
        ]
        for penalty in application.penalties if penalise else ():
            penalise(application, evaluate, penalty)  # type: ignore[misc]
        for composition, value in made:
            if composition.target == "h":
                h = value if rows is None else scattered(h, value, rows, axis=-1)
            elif hand_on is not None:
                hand_on(application, evaluate, composition, value)
    return h

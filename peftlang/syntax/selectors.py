"""Selectors out of their parts: a scope in a list reaches back, as `nodes.Scoped` says."""

from collections.abc import Sequence
from typing import NamedTuple

from peftlang.diagnostics import Span
from peftlang.syntax import nodes as n


class Selected(NamedTuple):
    """One entry of a selector's list and the scopes written after it."""

    span: Span
    base: n.Selector
    scopes: tuple[n.Scope, ...]


def narrowed(base: n.Selector, scopes: tuple[n.Scope, ...], value: Span) -> n.Selector:
    """What is tapped, of which a value's name stands between the name of the site and scopes."""
    if not scopes:
        return base
    return n.Scoped(base.span.to(value).to(scopes[-1].span), base, scopes)


def joined(children: Sequence[object]) -> n.Selector:
    """A list of `Selected` (and the commas between them) as one selector."""
    options: list[n.Selector] = []
    waiting: list[n.Selector] = []
    scopes: list[n.Scope] = []
    for entry in children:
        if not isinstance(entry, Selected):
            continue
        if scopes and isinstance(scopes[-1], n.Except):
            excepted = _either([scopes[-1].selector, entry.base])
            scopes[-1] = n.Except(scopes[-1].span.to(entry.base.span), excepted)
        else:
            if scopes:
                options.append(_scoped(waiting, scopes))
                waiting, scopes = [], []
            waiting.append(entry.base)
        scopes.extend(entry.scopes)
    if scopes:
        options.append(_scoped(waiting, scopes))
    else:
        options.extend(waiting)
    return _either(options)


def _scoped(waiting: Sequence[n.Selector], scopes: Sequence[n.Scope]) -> n.Scoped:
    base = _either(waiting)
    return n.Scoped(base.span.to(scopes[-1].span), base, tuple(scopes))


def _either(options: Sequence[n.Selector]) -> n.Selector:
    flat: list[n.Selector] = []
    for option in options:
        flat.extend(option.options if isinstance(option, n.Either) else [option])
    if len(flat) == 1:
        return flat[0]
    return n.Either(options[0].span.to(options[-1].span), tuple(flat))

"""Every well-typed mutant of a spec, as text that the checker passes."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from peftlang.diagnostics import PeftError, Source
from peftlang.lower import build, load
from peftlang.syntax import format_file, nodes, parse
from tests.mutation.edits import Edit, in_adapter, in_method


@dataclass(frozen=True)
class Mutant:
    """A changed spec.

    Attributes:
        kind: What kind of slip made it.
        line: The lines that it changes, as they are after the change.
        text: The whole spec.
    """

    kind: str
    line: str
    text: str


def tree(text: str) -> nodes.File:
    """A spec's tree without its comments, so that any change of it can be printed."""
    file, diagnostics = parse(Source("<text>", text))
    assert not diagnostics
    return replace(file, comments=(), source=None)


@cache
def candidates(path: Path) -> list[Mutant]:
    """Every distinct text that one edit makes of a spec; ill-typed ones included."""
    file = tree(path.read_text("utf-8"))
    original = format_file(file)
    found: dict[str, Mutant] = {original: Mutant("none", "", original)}
    for index, item in enumerate(file.items):
        for kind, changed in _edited(item):
            items = (*file.items[:index], changed, *file.items[index + 1 :])
            text = format_file(replace(file, items=items))
            found.setdefault(text, Mutant(kind, _difference(original, text), text))
    del found[original]
    return list(found.values())


def _edited(item: nodes.Item) -> Iterator[Edit]:
    if isinstance(item, nodes.Method):
        yield from in_method(item)
    elif isinstance(item, nodes.Adapter):
        yield from in_adapter(item)


def _difference(before: str, after: str) -> str:
    """The lines of `after` that `before` has not, blanks collapsed; or what is gone."""
    old = {" ".join(line.split()) for line in before.splitlines()}
    new = {" ".join(line.split()) for line in after.splitlines()}
    ordered = [" ".join(line.split()) for line in after.splitlines()]
    added = [line for line in dict.fromkeys(ordered) if line not in old]
    if added:
        return "; ".join(added)
    gone = [line for line in map(" ".join, map(str.split, before.splitlines())) if line not in new]
    return "without " + "; ".join(gone)


@cache
def is_well_typed(mutant: Mutant) -> bool:
    """Whether `check` accepts the mutant's text and its tree is what it is printed as."""
    try:
        build(load(mutant.text))
    except PeftError:
        return False
    return True


def well_typed(path: Path) -> list[Mutant]:
    """All of a spec's mutants that `check` accepts."""
    return [mutant for mutant in candidates(path) if is_well_typed(mutant)]


def chosen(mutants: list[Mutant], count: int, seed: int, first: list[Mutant]) -> list[Mutant]:
    """A seeded choice of well-typed mutants that takes from every kind in turn.

    Args:
        mutants: All that there are, ill-typed ones included.
        count: How many to choose besides those that come first.
        seed: The same seed chooses the same.
        first: Those that are chosen in any case, where they are well typed.
    """
    found = [mutant for mutant in first if is_well_typed(mutant)]
    piles: dict[str, list[Mutant]] = {}
    for mutant in random.Random(seed).sample(mutants, len(mutants)):
        if mutant not in first:
            piles.setdefault(mutant.kind, []).append(mutant)
    wanted = len(found) + count
    while any(piles.values()) and len(found) < wanted:
        for pile in piles.values():
            good = _next_well_typed(pile)
            if good is not None and len(found) < wanted:
                found.append(good)
    return found


def _next_well_typed(pile: list[Mutant]) -> Mutant | None:
    while pile:
        mutant = pile.pop()
        if is_well_typed(mutant):
            return mutant
    return None

"""What a site has in scope, for the positions that a method is placed on."""

from collections.abc import Iterable
from dataclasses import dataclass

from peftlang.ir.dims import Dim
from peftlang.ir.positions import (
    ACTIVATION,
    BLOCK,
    CORE,
    EMBED,
    NORM,
    POSITIONS,
    PROJECTION,
    PROMPT,
    SUBLAYER,
    Scope,
)
from peftlang.ir.selector import Selector
from peftlang.ir.types import Level, Type

KINDS: tuple[Scope, ...] = (PROJECTION, SUBLAYER, CORE, NORM, EMBED, ACTIVATION, PROMPT, BLOCK)
"""Every kind of site, the likeliest first."""


@dataclass(frozen=True)
class Site:
    """One kind of site that a method is checked against.

    Attributes:
        position: A role of that kind, for messages.
        values: Names in scope and their types.
        targets: What a composition may write there.
        certain: False where the kind was guessed from the names that the method reads.
    """

    position: str
    values: Scope
    targets: frozenset[str]
    certain: bool = True


def _site(position: str, scope: Scope, *, sequential: bool, certain: bool = True) -> Site:
    values = dict(scope)
    targets = {"h", "W", "b", "q", "k", "v"} & set(scope)
    if scope in (PROJECTION, BLOCK) and not sequential:
        targets.add("x")
    if sequential and "x" not in values and scope in (ACTIVATION, EMBED):
        values["x"] = Type((Dim.of("d_x"),), Level.TOKEN)
    return Site(position, values, frozenset(targets), certain)


def sites_of(selector: Selector, *, sequential: bool) -> list[Site]:
    """One site for each kind that the selector's roles are of, in the order written.

    Empty when it has globs alone: modules are of any kind.
    """
    found: list[Site] = []
    kinds: list[Scope] = []
    for target in selector.targets:
        scope = POSITIONS.get(target.text) if target.kind == "role" else None
        if scope is not None and not any(scope is kind for kind in kinds):
            kinds.append(scope)
            found.append(_site(f"`{target.text}`", scope, sequential=sequential))
    return found


def sites_for(names: Iterable[str], targets: Iterable[str], *, sequential: bool) -> list[Site]:
    """The kinds of site that have all these names and targets, the likeliest first.

    When no kind has them all, the one that lacks the fewest.
    """
    wanted, written = set(names), set(targets)
    every = [_site(_example(scope), scope, sequential=sequential, certain=False) for scope in KINDS]

    def lacking(site: Site) -> int:
        return len(wanted - set(site.values)) + len(written - site.targets)

    whole = [site for site in every if not lacking(site)]
    return whole or [min(every, key=lacking)]


def _example(scope: Scope) -> str:
    role = next(name for name, found in POSITIONS.items() if found is scope)
    return f"`{role}`"


def positions_with(name: str) -> list[str]:
    """Positions that have a name in scope."""
    return [role for role, scope in POSITIONS.items() if name in scope]

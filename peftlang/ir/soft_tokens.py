"""Soft tokens: what methods at ``prompt`` put before a sequence, how many, and at which layer.

A sequence of token ids is made longer before the model runs, since masks and positions are made
before the layers are. What comes in at a layer then has *reserved positions* until it does, and
what comes in last stands furthest in front, so that at every layer the reserved positions that are
still to be filled are one run of first tokens. A sequence that is no ids (patches, frames) is made
longer by the layer itself, and has no reserved positions.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from peftlang.diagnostics import PeftError
from peftlang.ir.expr import Apply, Expr, Ref, Scalar
from peftlang.ir.method import Method
from peftlang.ir.plan import ActivePlan, Site
from peftlang.ir.sizes import site_sizes

POSITION_TABLE = "places"
"""Role of a table of positions: no position of the language, found by its weight."""


def parts_before(method: Method) -> list[Expr]:
    """What a method puts before the sequence, in the order in which it stands there.

    Raises:
        PeftError: S411, the sequence is not kept as it is behind what is put before it.
    """
    found: list[Expr] = []
    for composition in method.compositions:
        found = [*_before(composition.value, method), *found]
    return found


def _before(value: Expr, method: Method) -> list[Expr]:
    if isinstance(value, Ref) and value.name == "h":
        return []
    if isinstance(value, Apply) and value.op == "concat":
        return [*value.args[:-1], *_before(value.args[-1], method)]
    raise PeftError(
        f"`{method.name}` changes the prompt otherwise than by putting something before it",
        code="S411",
        help="write `composition h = concat(..., h)`; to change the tokens' own embeddings, place "
        "a method at `embed`",
    )


@dataclass(frozen=True)
class Entry:
    """Soft tokens that one placement of an adapter puts before the sequence at one site.

    Attributes:
        label: The placement's.
        count: How many.
    """

    adapter: str
    label: str
    site: Site
    count: int

    @property
    def layer(self) -> int:
        """The layer at which they come in; -1 for the model's input."""
        return -1 if self.site.layer is None else self.site.layer

    @property
    def has_ids(self) -> bool:
        """Whether the sequence is one of token ids."""
        return self.site.weight is not None


def soft_tokens(method: Method, args: Mapping[str, Scalar], site: Site) -> int:
    """How many soft tokens a method puts before the sequence at a site."""
    sizes = site_sizes(method, args, site)
    return sum(part.type.dims[0].evaluate(sizes) for part in parts_before(method))


def entries(active: Iterable[ActivePlan]) -> list[Entry]:
    """What the active adapters put before sequences, in the order in which it acts: by layer."""
    return sorted(_entries(active), key=lambda entry: entry.layer)


def _entries(active: Iterable[ActivePlan]) -> Iterator[Entry]:
    for adapter in active:
        for placement in adapter.plan.placements:
            for site in (adapter.plan.sites[name] for name in placement.sites):
                if site.role == "prompt":
                    method = adapter.plan.uses[placement.label].method
                    count = soft_tokens(method, placement.args, site)
                    yield Entry(adapter.name, placement.label, site, count)


def reserved_at(active: Iterable[ActivePlan], site: Site) -> int:
    """How many soft tokens come in only behind what a site reads.

    A site in no layer is taken to be before all of them where it makes the sequence, and behind
    them elsewhere.
    """
    if site.layer is None and site.role not in {"embed", POSITION_TABLE}:
        return 0
    layer = -1 if site.layer is None else site.layer
    return sum(e.count for e in _entries(active) if e.layer > layer and _reads(site, e.site))


def soft_at(active: Iterable[ActivePlan], site: Site) -> int:
    """How many soft tokens a site's rows hold, in a call that brings some.

    Where the sequence has no ids they are there in its layers alone.
    """
    own = [e for e in _entries(active) if e.site.sequence == site.sequence]
    if all(e.has_ids for e in own):
        return sum(e.count for e in own) - reserved_at(active, site)
    if site.layer is None:
        return 0
    return sum(e.count for e in own if max(e.layer, 0) <= site.layer)


def _reads(site: Site, prompt: Site) -> bool:
    """Whether a site's tokens are those that a prompt comes before."""
    return site.stack == prompt.stack if site.layer is not None else site.side == prompt.side

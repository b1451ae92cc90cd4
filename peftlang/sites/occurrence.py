"""Where a site runs in one captured graph: what `locate` finds and what `insert` rewrites."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch.fx import Node

from peftlang.dataflow.attention import Product
from peftlang.dataflow.projected import Weight
from peftlang.ir.plan import Site


@dataclass(slots=True)
class Occurrence:
    """One place in one graph where a site runs.

    site: the site that runs here.
    call: the node that computes it: the linear, addmm, embedding, convolution or norm; for a
        sub-layer the addition to the residual stream (the producer of `h` if there is none);
        for `attn.core` the attention product's last node.
    values: the nodes of the names in scope, of those that exist in this graph. `x` and `h` are
        token-shaped (``[..., features]``) unless `layout` says otherwise: where a projection
        works on flattened tokens, `x` is what was flattened and `h` what was unflattened.
        `W` and `b` are the placeholders (or get_attr nodes) of the whole parameters; where
        `site.rows` is set, the role is a slice of them and of `h`.
    readers: by name, the nodes that take the value as an operand on behalf of this site. A
        change of `x`, `W`, `b`, `q`, `k` or `v` replaces it in those alone (a cached key is also
        an output of the graph; one `x` feeds several projections). A changed `h` goes to
        ``readers["h"]`` if given, else to every user.
    layout: for names that are not ``[..., features]``: one letter per dimension, ``"bhtd"``
        (heads before tokens), ``"bthd"``, ``"ntd"`` (batch and heads merged into n), ``"bchw"``.
    product: the parts of an attention product, for the two `core` roles.
    projected: for those, gives the weight that makes `k` or `v`; None where no one weight does.
    sliced: the graph itself takes the role's rows out of the weight first: `W`, `b` and `h` hold
        those rows alone here, and `site.rows` is already applied.
    """

    site: Site
    call: Node
    values: dict[str, Node]
    readers: dict[str, tuple[Node, ...]] = field(default_factory=dict)
    layout: dict[str, str] = field(default_factory=dict)
    product: Product | None = None
    sliced: bool = False
    projected: Callable[[str], Weight | None] = lambda _part: None
    origin: Node | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """A site whose weights are used in a graph, yet whose nodes cannot be found there."""

    site: Site
    reason: str


@dataclass(slots=True)
class Located:
    """What `locate` found in one graph: occurrences by site id, and the sites that it lost."""

    found: dict[str, list[Occurrence]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)


NESTING = ("", "attn", "cross_attn", "ffn", "block")
"""Positions whose ``h`` may be one node: the outer acts after the inner."""


def operation_of(occurrence: Occurrence) -> tuple[Node, str]:
    """The operation at which a site runs.

    A projection may be several sites, and parts of one. A layer and its parts may end at one
    operation too; these are told apart by their position.
    """
    role = occurrence.site.role
    return occurrence.origin or occurrence.call, role if role in NESTING else ""

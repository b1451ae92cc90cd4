"""Why a role has no site in a model: what was looked for in its graph, and what could be named."""

import re
from collections.abc import Iterable, Sequence

from peftlang.capture import CapturedGraph
from peftlang.dataflow.flow import shape_of
from peftlang.dataflow.ops import name_of
from peftlang.dataflow.reading import Reading
from peftlang.ir.plan import Site

_PRODUCT = "an attention product (scaled_dot_product_attention, or a softmax of a product of two "
_PRODUCT += "projections that multiplies a third)"

_LOOKED_FOR = {
    "attn": f"a residual branch with {_PRODUCT}",
    "attn.core": _PRODUCT,
    "cross_attn": f"a residual branch with {_PRODUCT} whose keys come from another sequence",
    "cross_attn.core": f"{_PRODUCT} whose keys come from another sequence",
    "ffn": "a residual branch with projections and no attention product",
    "ffn.up": "a projection before the non-linearity of a feed-forward branch",
    "ffn.gate": "a projection whose non-linearity multiplies another's output in a feed-forward "
    "branch",
    "ffn.down": "the projection after the non-linearity of a feed-forward branch",
    "expert.up": "a product with the weights of all experts before the non-linearity",
    "expert.gate": "a product with the weights of all experts whose non-linearity multiplies "
    "another's output",
    "expert.down": "a product with the weights of all experts after the non-linearity",
    "router": "a projection that scores the experts which read the same hidden state",
    "ffn.act": "the value that the last projection of a feed-forward branch reads",
    "block": "a layer in a list of layers that reads and writes one residual stream",
    "norm": "a gain that multiplies a value divided by its own spread",
    "embed": "a table looked up by whole numbers, or a convolution over patches",
    "head": "a projection that writes the model's last output",
    "linear": "a product of a hidden state with a matrix of the model's own",
}


def looked_for(role: str) -> str:
    """What the analysis looks for to find a role, as part of a sentence."""
    if role in _LOOKED_FOR:
        return _LOOKED_FOR[role]
    kind, _, part = role.partition(".")
    place = "after" if part == "o" else "that feeds"
    product = _LOOKED_FOR.get(f"{kind}.core", _PRODUCT)
    return f"a projection {place} {product}"


def paths_instead(sites: Iterable[Site], most: int = 6) -> list[str]:
    """Globs of the modules that can be named instead, layers put together as ``*``."""
    found: dict[str, None] = {}
    for site in sites:
        if site.role in {"linear", "head"} and site.path:
            found[re.sub(r"(?<=\.)\d+(?=\.|$)", "*", site.path)] = None
    return list(found)[:most]


def found_instead(role: str, graph: CapturedGraph, sites: Sequence[Site]) -> str:
    """What the graph has that comes near to a role it does not have, as a sentence, or ""."""
    if role.startswith(("attn.", "cross_attn.")) and not any(s.role == "attn.core" for s in sites):
        return _bare_product(graph)
    if role.startswith("expert."):
        return _taken_singly(graph)
    branches = [site for site in sites if site.role == "ffn"]
    experts = "; `expert.up` and its like are single experts'"
    experts = experts if any(s.role.startswith("expert.") for s in sites) else ""
    if role.startswith("ffn.") and branches and not any(s.role == "ffn.down" for s in sites):
        return (
            f"`{branches[0].anchors[0]}` holds the weights of all experts at once, and no single "
            f"projection applies it; `ffn` is the whole branch{experts}"
        )
    return ""


def _taken_singly(graph: CapturedGraph) -> str:
    """Parameters of three dimensions that a loop over experts indexes."""
    for node, name in graph.facts.parameters.items():
        singly = any(name_of(user) == "getitem" for user in node.users)
        if len(shape_of(node)) == 3 and singly:
            return (
                f"`{name}` holds several experts, and the model takes them one by one, those "
                "that tokens were given to; the positions are found where all run as products"
            )
    return ""


def _bare_product(graph: CapturedGraph) -> str:
    products = Reading.of(graph).attentions
    bare = [(a.call, part) for a in products for part, made in a.sources.items() if not made]
    if not bare:
        return ""
    call, part = bare[0]
    return f"The attention product `{call}` was found, but no projection makes its `{part}`"

"""Predicates on a token's place in the prompt, written into a graph."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from peftlang.capture import hint_of
from peftlang.diagnostics import PeftError
from peftlang.ir.expr import Apply, postorder
from peftlang.ir.method import Method
from peftlang.ir.plan import Site
from peftlang.ir.positions import POSITIONS

if TYPE_CHECKING:
    from peftlang.passes.views import SiteView

PLACES = "+tokens."
FROM_START, FROM_END = "first", "last"


def token_slot(side: str, end: str) -> str:
    """Slot of the tokens' places, ``[batch, tokens]``, counted from one end of the prompt.

    Padding, virtual and generated tokens are further from either end than any number.
    """
    return f"{PLACES}{side}.{end}"


def sequence_of(site: Site) -> str:
    """Which of the model's sequences the tokens at a site are: a side, or ``model``."""
    if site.role in {"cross_attn.k", "cross_attn.v"}:
        return "encoder"
    return site.side or "model"


def reads_places(method: Method) -> bool:
    """Whether a method changes chosen tokens alone."""
    nodes = postorder(*(c.value for c in method.compositions))
    return any(isinstance(node, Apply) and node.op == "tokens" for node in nodes)


def token_mask(view: "SiteView", keywords: Mapping[str, Any]) -> Any:
    """1 for the first and the last tokens of the prompt, 0 for others: ``[batch, tokens]``.

    Where the call did not say what its tokens are (image patches, one layer by itself), the
    sequence at the site is all prompt.
    """
    site = view.occurrence.site
    side = sequence_of(site)
    first, last = int(keywords.get("first", 0)), int(keywords.get("last", 0))
    if token_slot(side, FROM_START) in view.reads.given:
        _check_length(view, side)
        starts: Any = view.emission.proxy(view.reads(token_slot(side, FROM_START)))
        ends: Any = view.emission.proxy(view.reads(token_slot(side, FROM_END)))
        if _is_flat(view):
            starts, ends = starts.flatten(), ends.flatten()
    else:
        value: Any = view.read("h").detach()
        for _ in POSITIONS[site.role]["h"].dims:
            value = value.select(-1, 0)
        ones = torch.ones_like(value, dtype=torch.long)
        starts = ones.cumsum(-1) - 1
        ends = ones.flip(-1).cumsum(-1).flip(-1) - 1
    return ((starts < first) | (ends < last)).to(view.dtype("h") or torch.float32)


def _is_flat(view: "SiteView") -> bool:
    """Whether batch and tokens are one dimension at the site."""
    return len(_shape(view)) == 2


def _shape(view: "SiteView") -> tuple[Any, ...]:
    if view.occurrence.product is not None:
        return ()
    value = view.node("h").meta.get("example_value")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _check_length(view: "SiteView", side: str) -> None:
    shape = _shape(view)
    given = view.reads.value(token_slot(side, FROM_START)).shape[1]
    if len(shape) == 3 and hint_of(shape[1]) != given:
        raise PeftError(
            f"the model was given {given} tokens, and {view.occurrence.site.id} has "
            f"{hint_of(shape[1])}, so `tokens(first, last)` has no meaning there",
            code="R516",
            help="place the method where the sequence is the model's input sequence",
        )

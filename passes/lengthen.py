"""More keys than the model computed: masks and softmax follow a longer ``k`` and ``v``."""

from typing import Any

import torch
from torch.fx import Node

from peftlang.passes.attention_view import AttentionView, argument, square_of_ones


def lengthen(view: AttentionView, extra: int) -> None:
    """Commit a ``k`` and ``v`` that begin with ``extra`` learned rows.

    Every query sees the learned rows, whatever the mask says of the others.

    Args:
        view: A view whose ``k`` and ``v`` have been set, ``[batch, extra + keys, ...]``.
        extra: Number of rows before the model's own.
    """
    if view.product.kind == "sdpa":
        _lengthen_sdpa(view, extra)
    else:
        _lengthen_softmax(view, extra)


def _lengthen_sdpa(view: AttentionView, extra: int) -> None:
    call = view.occurrence.call
    mask = argument(call, 3, "attn_mask", default=None)
    if isinstance(mask, Node):
        seen: Any = view.emission.proxy(mask)
        value = True if _is_bool(mask) else 0.0
        seen = torch.nn.functional.pad(seen, (extra, 0), value=value)
    elif argument(call, 5, "is_causal", default=False) is not False:
        seen = _causal(view, extra, call)
    else:
        seen = None
    view.commit("k")
    view.commit("v")
    if seen is not None:
        set_argument(call, 3, "attn_mask", seen.node)
        set_argument(call, 5, "is_causal", False)


def _causal(view: AttentionView, extra: int, call: Node) -> Any:
    """The mask that ``is_causal`` stands for, with the learned keys seen by all."""
    ones = square_of_ones(view.emission.proxy(view.node("q")), view.emission.proxy(view.node("k")))
    return torch.nn.functional.pad(torch.tril(ones), (extra, 0), value=True)


def _is_bool(mask: Node) -> bool:
    value = mask.meta.get("example_value")
    return isinstance(value, torch.Tensor) and value.dtype is torch.bool


def set_argument(call: Node, position: int, name: str, value: Any) -> None:
    """Give a call another argument, by position where it had one there."""
    if len(call.args) > position:
        call.update_arg(position, value)
    else:
        call.update_kwarg(name, value)


def _lengthen_softmax(view: AttentionView, extra: int) -> None:
    """Scores of the learned keys go before the model's own, where the softmax reads them."""
    softmax = view.product.softmax
    assert softmax is not None
    scores = softmax.all_input_nodes[0]
    learned = view.row_scores(view.get("k").narrow(1, 0, extra)).transpose(1, 2)
    own: Any = view.emission.proxy(scores)
    if view.occurrence.layout.get("q") == "ntd":
        learned = learned.flatten(0, 1)
    joined = torch.cat([learned.type_as(own), own], dim=-1)
    view.emission.replace(scores, joined, only_in=(softmax,))
    view.commit("v")

"""More keys than the model computed: masks and softmax follow a longer ``k`` and ``v``."""

from typing import Any

import torch
from torch.fx import Node

from peftlang.capture.facts import VALUE
from peftlang.dataflow.ops import argument
from peftlang.emit.attention_view import AttentionView, square_of_ones
from peftlang.emit.rewriting import Emission, node_of, replace


def lengthen(view: AttentionView, keys: Any, extra: int) -> None:
    """Let the attention product see keys and values that begin with learned rows.

    Every query sees the learned rows, whatever the mask says of the others.

    Args:
        view: The product, before its own keys and values are replaced.
        keys: All keys, ``[batch, extra + keys, kv_heads, d_head]``.
        extra: Number of rows before the model's own.
    """
    if view.product.kind == "sdpa":
        _lengthen_sdpa(view, extra)
    else:
        _lengthen_softmax(view, keys, extra)


def _lengthen_sdpa(view: AttentionView, extra: int) -> None:
    call = view.occurrence.call
    mask = argument(call, 3, "attn_mask")
    if isinstance(mask, Node):
        seen: Any = view.emission.proxy(mask)
        seen = torch.nn.functional.pad(seen, (extra, 0), value=True if _is_bool(mask) else 0.0)
    elif argument(call, 5, "is_causal", default=False) is not False:
        seen = _causal(view, extra)
    else:
        return
    set_argument(call, 3, "attn_mask", node_of(seen))
    set_argument(call, 5, "is_causal", False)


def _causal(view: AttentionView, extra: int) -> Any:
    """The mask that ``is_causal`` stands for, with the learned keys seen by all."""
    nodes = view.occurrence.values
    ones = square_of_ones(*(view.emission.proxy(nodes[name]) for name in "qk"))
    return torch.nn.functional.pad(torch.tril(ones), (extra, 0), value=True)


def _is_bool(mask: Node) -> bool:
    value = mask.meta.get(VALUE)
    return isinstance(value, torch.Tensor) and value.dtype is torch.bool


def set_argument(call: Node, position: int, name: str, value: Any) -> None:
    """Give a call another argument, by position where it had one there."""
    if len(call.args) > position:
        call.update_arg(position, value)
    else:
        call.update_kwarg(name, value)


def _lengthen_softmax(view: AttentionView, keys: Any, extra: int) -> None:
    """Scores of the learned keys go before the model's own, where the softmax reads them."""
    softmax = view.product.softmax
    assert softmax is not None
    scores = softmax.all_input_nodes[0]
    with Emission(view.work, softmax) as emission:
        late = view.at(emission)
        first = emission.proxy(node_of(keys)).narrow(1, 0, extra)
        learned = late.row_scores(first).transpose(1, 2)
        own: Any = emission.proxy(scores)
        if view.occurrence.layout.get("q") == "ntd":
            learned = learned.flatten(0, 1)
        joined = torch.cat([learned.type_as(own), own], dim=-1)
    replace(scores, node_of(joined), readers=(softmax,), but=emission.made)

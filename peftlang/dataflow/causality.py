"""Whether an attention product keeps tokens from looking ahead."""

import torch
from torch import Tensor
from torch.fx import Node

from peftlang.dataflow.attention import Attention
from peftlang.dataflow.flow import Flow
from peftlang.dataflow.ops import argument, name_of
from peftlang.dataflow.slices import run_alone


def is_causal(flow: Flow, attention: Attention) -> bool:
    """Whether no query sees a later key: by the flag, or by the mask's own values."""
    fused = name_of(attention.call) == "scaled_dot_product_attention"
    if fused and argument(attention.call, 5, "is_causal"):
        return True
    mask = attention.product.mask
    return mask is not None and _hides_later(_value(flow, mask))


def _value(flow: Flow, mask: Node) -> Tensor | None:
    """The mask as it comes out for inputs of ones: it is made from positions, not from weights."""
    nodes = sorted(flow.ancestors([mask]), key=flow.order.__getitem__)
    value = run_alone(nodes, mask)
    return value if isinstance(value, Tensor) else None


def _hides_later(mask: Tensor | None) -> bool:
    if mask is None or mask.dim() < 2 or mask.shape[-1] < 2 or mask.shape[-1] != mask.shape[-2]:
        return False
    later = torch.ones(mask.shape[-2:], dtype=torch.bool).triu(1)
    hidden = ~mask if mask.dtype == torch.bool else mask < torch.finfo(torch.float16).min / 2
    return bool(hidden[..., later].all()) and not bool(hidden[..., ~later].all())

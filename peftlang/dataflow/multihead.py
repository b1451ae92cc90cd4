"""`torch.nn.MultiheadAttention`, which a graph holds as one opaque node, written out."""

import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Graph, Node, Proxy, map_arg
from torch.fx.proxy import GraphAppendingTracer
from torch.nn import functional

from peftlang.capture.facts import STACK, VALUE, ModuleCall
from peftlang.capture.memory import OVERWRITTEN
from peftlang.dataflow.ops import name_of
from peftlang.dataflow.written import WRITTEN_OUT, WrittenOut
from peftlang.diagnostics import PeftError

_NAMES = (
    *("query", "key", "value", "embed_dim", "num_heads", "in_proj_weight", "in_proj_bias"),
    *("bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias"),
    *("training", "key_padding_mask", "need_weights", "attn_mask", "use_separate_proj_weight"),
    *("q_proj_weight", "k_proj_weight", "v_proj_weight", "static_k", "static_v"),
    *("average_attn_weights", "is_causal"),
)
_DEFAULTS: dict[str, Any] = dict.fromkeys(_NAMES) | {
    "training": True,
    "need_weights": True,
    "use_separate_proj_weight": False,
    "average_attn_weights": True,
    "is_causal": False,
}
_FUSED_KERNELS = frozenset({"transformer_encoder_layer_fwd", "native_multi_head_attention"})


def write_out(graph: Graph, calls: Iterable[ModuleCall] = ()) -> bool:
    """Rewrite a graph in place; say whether there was anything to write out.

    Args:
        graph: The operations.
        calls: Calls of modules in it, which are told of the nodes that give their results now.

    Raises:
        PeftError: S407 for forms that have no projections to name: keys and values given
            (`static_k`), extended (`add_bias_kv`, `add_zero_attn`), or hidden in a fused kernel.
    """
    found = [n for n in graph.nodes if name_of(n) == "multi_head_attention_forward"]
    hidden = [n for n in graph.nodes if name_of(n).lstrip("_") in _FUSED_KERNELS]
    if hidden:
        raise _unnamed("a fused inference kernel", "call the model once in training mode")
    for number, node in enumerate(found):
        moved = _replace(graph, node, number)
        for call in calls:
            call.outputs = {moved.get(n, n): place for n, place in call.outputs.items()}
    if found:
        graph.lint()
    return bool(found)


def _unnamed(what: str, mend: str) -> PeftError:
    return PeftError(f"attention by {what} has no projections to name", code="S407", help=mend)


def _replace(graph: Graph, node: Node, number: int) -> dict[Node, Node]:
    options = _DEFAULTS | dict(zip(_NAMES, node.args, strict=False)) | dict(node.kwargs)
    for name in ("bias_k", "bias_v", "static_k", "static_v", "add_zero_attn"):
        if options[name] is not None and options[name] is not False:
            raise _unnamed(f"MultiheadAttention with `{name}`", "use module paths as positions")
    before = set(graph.nodes)
    origin = WrittenOut.of(node, number)
    with graph.inserting_before(node):
        out, weights = _Attention(graph, options).outputs()
    moved: dict[Node, Node] = {}
    for user in list(node.users):
        value = (out, weights)[user.args[1]]  # type: ignore[index]
        if value is not None:
            moved[user] = value.node
            if OVERWRITTEN in user.meta:
                value.node.meta[OVERWRITTEN] = user.meta[OVERWRITTEN]
            user.replace_all_uses_with(value.node)
            graph.erase_node(user)
    inputs = [n for n in node.all_input_nodes if name_of(n) == "transpose"]
    graph.erase_node(node)
    for unused in inputs:
        if not unused.users:
            graph.erase_node(unused)
    for made in graph.nodes:
        if made not in before:
            made.meta |= {STACK: node.meta.get(STACK, ()), WRITTEN_OUT: origin}
            made.meta[VALUE] = _value(made)
    return moved


def _value(node: Node) -> Any:
    """The stand-in for what the node computes, from its operands' stand-ins."""
    operands = [n.meta[VALUE] for n in node.all_input_nodes]
    mode = next((v.fake_mode for v in operands if isinstance(v, FakeTensor)), None)

    def stand_in(operand: Node) -> Any:
        value = operand.meta[VALUE]
        real = mode and isinstance(value, Tensor) and not isinstance(value, FakeTensor)
        return mode.from_tensor(value) if mode and real else value

    args, kwargs = map_arg((node.args, dict(node.kwargs)), stand_in)
    with torch.no_grad(), mode or nullcontext():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


class _Attention:
    """The arguments of one ``multi_head_attention_forward``, as proxies in its graph."""

    def __init__(self, graph: Graph, options: dict[str, Any]) -> None:
        self.tracer = GraphAppendingTracer(graph)
        self.options = options
        query: Node = options["query"]
        self.query_value: Tensor = query.meta[VALUE]
        self.batched = self.query_value.dim() == 3
        # The module turns [batch, tokens] round for the function; it need not be turned at all.
        self.batch_first = self.batched and all(
            _turned(options[name]) for name in ("query", "key", "value")
        )
        self.heads = int(options["num_heads"])
        self.d_head = int(options["embed_dim"]) // self.heads

    def outputs(self) -> tuple[Any, Any]:
        q, k, v = (self._split(value) for value in self._projected())
        mask, causal = self._mask()
        dropout = float(self.options["dropout_p"]) if self.options["training"] else 0.0
        weights = None
        if self.options["need_weights"]:
            scores = torch.matmul(q * math.sqrt(1.0 / self.d_head), k.transpose(-2, -1))
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            if dropout > 0:
                weights = functional.dropout(weights, dropout)
            h = torch.matmul(weights, v)
            weights = self._returned(weights)
        else:
            h = functional.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        return self._joined(h), weights

    def _proxy(self, name: str) -> Any:
        value = self.options[name]
        return Proxy(value, self.tracer) if isinstance(value, Node) else None

    def _input(self, name: str) -> Any:
        node: Node = self.options[name]
        if self.batch_first:
            node = node.all_input_nodes[0]
        proxy = Proxy(node, self.tracer)
        return proxy if self.batched else proxy.unsqueeze(1)

    def _projected(self) -> Any:
        names = [self.options[name] for name in ("query", "key", "value")]
        width = int(self.options["embed_dim"])
        weight, bias = self._proxy("in_proj_weight"), self._proxy("in_proj_bias")
        if not self.options["use_separate_proj_weight"] and names[0] is names[1] is names[2]:
            fused = functional.linear(self._input("query"), weight, bias)
            return tuple(fused[..., i * width : (i + 1) * width] for i in range(3))
        parts = []
        for i, (name, letter) in enumerate(zip(("query", "key", "value"), "qkv", strict=True)):
            rows = slice(i * width, (i + 1) * width)
            own = self._proxy(f"{letter}_proj_weight")
            part = own if self.options["use_separate_proj_weight"] else weight[rows]
            parts.append(
                functional.linear(self._input(name), part, None if bias is None else bias[rows])
            )
        return parts

    def _split(self, value: Any) -> Any:
        heads = value.unflatten(-1, (self.heads, self.d_head))
        return heads.transpose(1, 2) if self.batch_first else heads.permute(1, 2, 0, 3)

    def _mask(self) -> tuple[Any, bool]:
        """The sum of both masks as a float tensor that meets [batch, heads, tokens, keys]."""
        mask, padding = self._proxy("attn_mask"), self._proxy("key_padding_mask")
        causal = bool(self.options["is_causal"])
        if causal and padding is None and not self.options["need_weights"]:
            return None, True
        if mask is not None:
            three = self.options["attn_mask"].meta[VALUE].dim() == 3
            mask = self._as_float(mask, "attn_mask")
            mask = mask.unflatten(0, (-1, self.heads)) if three else mask[None, None]
        if padding is not None:
            padding = self._as_float(padding, "key_padding_mask")
            padding = padding[:, None, None, :] if self.batched else padding[None, None, None, :]
            mask = padding if mask is None else mask + padding
            causal = False
        return mask, causal and not self.options["need_weights"]

    def _as_float(self, mask: Any, name: str) -> Any:
        if self.options[name].meta[VALUE].is_floating_point():
            return mask
        zeros = torch.zeros_like(mask, dtype=self.query_value.dtype)
        return zeros.masked_fill(mask, float("-inf"))

    def _joined(self, h: Any) -> Any:
        weight, bias = self._proxy("out_proj_weight"), self._proxy("out_proj_bias")
        if self.batch_first:
            return functional.linear(h.transpose(1, 2).flatten(2), weight, bias).transpose(0, 1)
        out = functional.linear(h.permute(2, 0, 1, 3).flatten(2), weight, bias)
        return out if self.batched else out.squeeze(1)

    def _returned(self, weights: Any) -> Any:
        shown = weights.mean(1) if self.options["average_attn_weights"] else weights
        return shown if self.batched else shown.squeeze(0)


def _turned(node: Node) -> bool:
    return name_of(node) == "transpose" and set(node.args[1:3]) == {0, 1}

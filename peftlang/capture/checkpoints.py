"""Checkpointed layers in graphs that run without a compiler behind them."""

from collections.abc import Callable
from typing import Any

from torch._higher_order_ops.wrap import tag_activation_checkpoint
from torch.fx import GraphModule
from torch.utils.checkpoint import checkpoint, noop_context_fn


def run_plainly(gm: GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
    """The backend that runs a graph as it is.

    Dynamo records a checkpointed layer as an operator that does not keep the random state, since
    a compiler would. Without one the layer would be recomputed with other dropout than it ran
    with, and its gradients would be wrong: here it is checkpointed as the model asked for.
    """
    for body in gm.modules():
        if not isinstance(body, GraphModule):
            continue
        calls = body.graph.find_nodes(op="call_function", target=tag_activation_checkpoint)
        for node in calls:
            node.target = _checkpointed
        if calls:
            body.recompile()
    return gm.forward


def _checkpointed(body: GraphModule, *args: Any, **kwargs: Any) -> Any:
    asked, own = tag_activation_checkpoint.divide_kwargs(kwargs)
    return checkpoint(
        body,
        *args,
        use_reentrant=False,
        preserve_rng_state=asked.get("preserve_rng_state", True),
        context_fn=body.meta.get("_checkpoint_context_fn", noop_context_fn),
        **own,
    )

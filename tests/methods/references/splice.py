"""Ordinary means of changing a model: hooks on modules, and an attention function of our own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask

from tests.methods.references.anatomy import Attention, Projection

Change = Callable[..., Tensor]
Core = Callable[["AttentionCall"], Tensor]


def _first(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _with_first(output: Any, value: Tensor) -> Any:
    return (value, *output[1:]) if isinstance(output, tuple) else value


def weight(model: nn.Module, projection: Projection) -> Tensor:
    """W ``[d_h, d_x]`` of the projection's own rows."""
    stored: Tensor = model.get_submodule(projection.path).weight  # type: ignore[assignment]
    full = stored.T if projection.transposed else stored
    return full if projection.rows is None else full[slice(*projection.rows)]


def bias(model: nn.Module, projection: Projection) -> Tensor | None:
    stored: Tensor | None = model.get_submodule(projection.path).bias  # type: ignore[assignment]
    if stored is None or projection.rows is None:
        return stored
    return stored[slice(*projection.rows)]


def change_output(model: nn.Module, projection: Projection, change: Change) -> None:
    """``h = change(x, h)`` on the projection's own rows."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if projection.rows is None:
            return change(args[0], output)
        start, stop = projection.rows
        parts = [output[..., :start], change(args[0], output[..., start:stop]), output[..., stop:]]
        return torch.cat(parts, dim=-1)

    model.get_submodule(projection.path).register_forward_hook(hook)


def change_weight(
    model: nn.Module, projection: Projection, change: Callable[[Tensor], Tensor]
) -> None:
    """Compute with ``change(W)`` in place of the projection's W."""

    def apply(x: Tensor, h: Tensor) -> Tensor:
        product = x @ change(weight(model, projection)).T
        offset = bias(model, projection)
        return product if offset is None else product + offset

    change_output(model, projection, apply)


def change_sublayer(
    model: nn.Module, first: str, last: str, change: Change, stream: str | None = None
) -> None:
    """``h = change(x, h)``, or ``change(x, h, resid)``, for what a sub-layer adds to the stream.

    Args:
        first: Path of the module whose input is x.
        last: Path of the module whose output is h.
        stream: Path of a module whose input is the residual stream.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen[name] = args[0]

        return hook

    model.get_submodule(first).register_forward_pre_hook(keep("x"))
    if stream is not None:
        model.get_submodule(stream).register_forward_pre_hook(keep("resid"))

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        resid = [seen["resid"]] if stream is not None else []
        return _with_first(output, change(seen["x"], _first(output), *resid))

    model.get_submodule(last).register_forward_hook(hook)


def change_input(model: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> None:
    """``x = change(x)`` for the module's first argument."""
    model.get_submodule(path).register_forward_pre_hook(
        lambda _, args: (change(args[0]), *args[1:])
    )


def change_block(model: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> None:
    """``h = change(h)`` for a whole layer's output."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _with_first(output, change(_first(output)))

    model.get_submodule(path).register_forward_hook(hook)


class AttentionCall:
    """One call of the attention function: ``[batch, heads, tokens, d_head]`` operands.

    `bias` is all that is added to the scores of the real keys, or None.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> None:
        self.q, self.k, self.v, self.bias, self.scale = q, k, v, bias, scale

    def scores(self) -> Tensor:
        plain = self.q @ self.k.transpose(-1, -2) * self.scale
        return plain if self.bias is None else plain + self.bias

    def prefix_scores(self, keys: Tensor) -> Tensor:
        return self.q @ self.spread(keys).transpose(-1, -2) * self.scale

    def spread(self, prefix: Tensor) -> Tensor:
        """``[l, kv_heads, d_head]`` for every row and query head."""
        groups = self.q.shape[1] // prefix.shape[1]
        heads = prefix.transpose(0, 1).repeat_interleave(groups, dim=0)
        return heads.unsqueeze(0).expand(self.q.shape[0], -1, -1, -1)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    terms = [t for t in (position_bias, attention_mask) if t is not None]
    call = AttentionCall(
        query,
        key.repeat_interleave(groups, dim=1),
        value.repeat_interleave(groups, dim=1),
        sum(terms[1:], terms[0]) if terms else None,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
    )
    core: Core = getattr(module, "reference_core", plain_core)
    return core(call).transpose(1, 2).contiguous(), None


def plain_core(call: AttentionCall) -> Tensor:
    return torch.softmax(call.scores(), dim=-1) @ call.v


NAME = "reference"
AttentionInterface.register(NAME, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)


def spell_out_attention(model: nn.Module) -> None:
    """Make the model compute attention as it is written here, before any change."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = NAME


def change_core(model: nn.Module, attention: Attention, core: Core) -> None:
    """Compute this sub-layer's attention product by `core`."""
    model.get_submodule(attention.core).reference_core = core  # type: ignore[assignment]

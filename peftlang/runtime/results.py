"""Results of a lengthened call, cut to the sequence that the caller knows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from peftlang.runtime.calls import Call

_OTHERS = ("decoder_", "past_", "cache_", "image", "vision", "pixel")
_FLAT = ("start_logits", "end_logits")


@dataclass(frozen=True)
class Cut:
    """What was put before which sequence.

    Attributes:
        count: Number of virtual tokens.
        tokens: Number of the caller's tokens; None when this call put none before them, and only
            attention to what a cache or an encoder holds is longer.
        own: The results are of the lengthened sequence.
        encoder: Results called ``encoder_...`` are.
    """

    count: int
    tokens: int | None
    own: bool
    encoder: bool


def shortened(call: "Call", cut: Cut) -> None:
    """Cut the call's result when it is there; a tuple is asked for as a mapping, and made again."""
    wanted = call.kwargs.get("return_dict")
    tuples = wanted is False
    if tuples:
        call.kwargs["return_dict"] = True

    def finish(result: Any) -> Any:
        result = _cut(result, "", cut)
        return result.to_tuple() if tuples and hasattr(result, "to_tuple") else result

    call.after.append(finish)


def _cut(value: Any, name: str, cut: Cut) -> Any:
    if isinstance(value, Tensor):
        return _cut_tensor(value, name, cut)
    if isinstance(value, dict):
        for key, inner in list(value.items()):
            if _concerns(key, cut):
                value[key] = _cut(inner, key, cut)
        return value
    if type(value) in {tuple, list}:
        return type(value)(_cut(inner, name, cut) for inner in value)
    return value


def _concerns(name: str, cut: Cut) -> bool:
    if name.startswith("encoder_"):
        return cut.encoder
    if name == "cross_attentions":
        return cut.encoder or not cut.own
    return cut.own and not name.startswith(_OTHERS)


def _cut_tensor(value: Tensor, name: str, cut: Cut) -> Tensor:
    if name.endswith("attentions") and value.dim() == 4:
        return _cut_attention(value, name, cut)
    if cut.tokens is None or (value.dim() < 3 and name not in _FLAT):
        return value
    if name == "logits":
        # Of some tokens at the end alone, perhaps: never more than the caller has.
        kept = min(value.shape[1], cut.tokens)
        return value.narrow(1, value.shape[1] - kept, kept)
    return _without_first(value, 1, cut)


def _cut_attention(value: Tensor, name: str, cut: Cut) -> Tensor:
    if name != "cross_attentions":
        value = _without_first(value, 2, cut)
    keys = value.shape[3] - cut.count
    return value.narrow(3, cut.count, keys) if keys > 0 else value


def _without_first(value: Tensor, axis: int, cut: Cut) -> Tensor:
    if cut.tokens is None or value.shape[axis] != cut.tokens + cut.count:
        return value
    return value.narrow(axis, cut.count, cut.tokens)

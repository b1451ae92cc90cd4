"""Results of a call with soft tokens, cut to the sequences that the caller knows.

A sequence of ids was made longer as a whole, before the model ran; one without ids in a stack's
layers alone, so that only what these layers hand back besides (their states, their attention) is
longer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_OTHERS = ("decoder_", "past_", "cache_", "image", "vision", "pixel")
_FLAT = ("start_logits", "end_logits")


@dataclass(frozen=True)
class Cut:
    """What was put before which sequence.

    Attributes:
        count: Number of soft tokens.
        tokens: Number of the caller's tokens; None when this call put none before them, and only
            attention to what a cache or an encoder holds is longer.
        own: The results are of the lengthened sequence.
        encoder: Results called ``encoder_...`` are.
    """

    count: int
    tokens: int | None
    own: bool
    encoder: bool


def shortened(kwargs: dict[str, Any], cut: Cut) -> Callable[[Any], Any]:
    """What cuts a call's result; a tuple is asked for as a mapping, and made again."""
    tuples = kwargs.get("return_dict") is False
    if tuples:
        kwargs["return_dict"] = True

    def finish(result: Any) -> Any:
        result = _cut(result, "", cut)
        return result.to_tuple() if tuples and hasattr(result, "to_tuple") else result

    return finish


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


# Sequences without ids

_OF_OTHERS = ("text", "decoder", "cross")
"""What begins the name of a result that is of another sequence."""


def levelled(counts: list[int]) -> Callable[[Any], Any]:
    """What cuts the states and attention weights of layers; layer ``i`` sees ``counts[i]`` more."""
    return lambda result: _levelled(result, counts)


def _levelled(result: Any, counts: list[int]) -> Any:
    """A result without the soft tokens, of which layer ``i`` sees ``counts[i]``."""
    if isinstance(result, dict):
        for name, value in list(result.items()):
            if name.startswith(_OF_OTHERS):
                continue
            if name.endswith("attentions") and _is_run(value):
                each = zip(value, counts, strict=False)
                result[name] = type(value)(_square(part, count) for part, count in each)
            elif name.endswith("hidden_states") and _is_run(value):
                result[name] = _level(value, counts)
            else:
                result[name] = _levelled(value, counts)
    return result


def _is_run(value: Any) -> bool:
    return type(value) in {tuple, list} and bool(value)


def _level(states: Any, counts: list[int]) -> Any:
    """States of a stack's layers: the last, and what the first reads, are without soft tokens."""
    lengths = [s.shape[1] for s in states if isinstance(s, Tensor) and s.dim() == 3]
    own = min(lengths, default=0)
    longer = {own + count: count for count in counts}
    return type(states)(
        s[:, longer.get(s.shape[1], 0) :] if isinstance(s, Tensor) and s.dim() == 3 else s
        for s in states
    )


def _square(weights: Any, count: int) -> Any:
    """Attention weights among the tokens that the caller knows."""
    square = isinstance(weights, Tensor) and weights.dim() == 4
    return weights[:, :, count:, count:] if square else weights

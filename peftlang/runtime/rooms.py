"""Soft tokens before patches or frames: room for them in a call, and results without them.

The sequence is made longer by the modules of the layers at which soft tokens come in, the first for
those at the input, and shorter by that of a stack's last, all while torch records them
(`admitted`); what the soft tokens are, the ``insert`` pass writes into the graph. So whatever comes
after the last layer is as the model made it. States and attention weights that layers in between
hand back are cut here, in plain Python.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn, zeros

from peftlang.diagnostics import PeftError
from peftlang.passes.dataflow.structure import item_path
from peftlang.passes.rooms import room
from peftlang.passes.tokens import room_slot, sequence_of
from peftlang.runtime.sequences import named, parameters
from peftlang.runtime.virtual import Prompt, length_of, prompts_of

if TYPE_CHECKING:
    from peftlang.runtime.adapted import Adapted
    from peftlang.runtime.calls import Call
    from peftlang.runtime.doors import Door


@contextmanager
def roomed(adapted: "Adapted", door: "Door", call: "Call") -> Iterator[None]:
    """Let the layers of an outermost call make room for the active adapters' soft tokens.

    Raises:
        PeftError: R515, the call says which patches count, and the soft tokens are none of them.
    """
    found: dict[str, list[Prompt]] = {}
    for prompt in prompts_of(adapted):
        stack, path = prompt.site.stack, prompt.site.path
        if prompt.site.weight is None and stack is not None and _holds(door.path, path):
            found.setdefault(stack, []).append(prompt)
    before = adapted.rooms
    given: dict[str, Tensor] = {}
    for stack, prompts in found.items():
        _check_mask(door, call)
        counts = _by_layer(prompts)
        adapted.rooms = {**adapted.rooms, **_rooms(stack, counts)}
        given[room_slot(sequence_of(prompts[0].site))] = zeros(sum(counts))
        call.after.append(_cutting(list(accumulate(counts))))
    try:
        with adapted.giving(given):
            yield
    finally:
        adapted.rooms = before


def _by_layer(prompts: list[Prompt]) -> list[int]:
    """How many soft tokens come in at each layer of a stack."""
    counts = [0] * prompts[0].site.dims["layers"]
    for prompt in prompts:
        counts[max(prompt.layer, 0)] += length_of(prompt)
    return counts


def _rooms(stack: str, counts: list[int]) -> dict[str, tuple[str, str]]:
    """What layers take in and let go, by path."""
    leaving = [0] * (len(counts) - 1) + [sum(counts)]
    # As text, which torch never takes for a size that may vary.
    return {
        item_path(stack, layer): (str(before), str(after))
        for layer, (before, after) in enumerate(zip(counts, leaving, strict=True))
        if before or after
    }


def _holds(door: str, path: str) -> bool:
    return not door or path == door or path.startswith(f"{door}.")


def _check_mask(door: "Door", call: "Call") -> None:
    if "input_ids" in parameters(door.original):
        return
    if named(door.original, call.args, call.kwargs):
        call.args = ()
    if call.kwargs.get("attention_mask") is not None:
        raise PeftError(
            "soft tokens come before the patches, and `attention_mask` has no entries for them",
            code="R515",
            help="leave `attention_mask` out",
        )


def admitted(
    adapted: "Adapted", path: str, run: Callable[..., Any], module: nn.Module,
    args: tuple[Any, ...], kwargs: dict[str, Any],
) -> Any:  # fmt: skip
    """One layer's forward, with room before its sequence or its result cut; torch records it."""
    before, after = map(int, adapted.rooms[path])
    if before:
        args, kwargs = _with_room(args, kwargs, before, path)
    result = run(module, *args, **kwargs)
    return _without(result, after) if after else result


def _with_room(
    args: tuple[Any, ...], kwargs: dict[str, Any], count: int, layer: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The layer's arguments, the first hidden state among them made longer."""
    for index, value in enumerate(args):
        if _is_sequence(value):
            return (*args[:index], room(value, count, layer), *args[index + 1 :]), kwargs
    for name, value in kwargs.items():
        if _is_sequence(value):
            return args, {**kwargs, name: room(value, count, layer)}
    return args, kwargs


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point()


def _without(result: Any, count: int) -> Any:
    if isinstance(result, tuple):
        return (_without(result[0], count), *result[1:])
    return result[:, count:]


# Results

_OTHERS = ("text", "decoder", "cross")
"""What begins the name of a result that is of another sequence."""


def _cutting(counts: list[int]) -> Callable[[Any], Any]:
    return lambda result: _cut(result, counts)


def _cut(result: Any, counts: list[int]) -> Any:
    """A result without the soft tokens, of which layer ``i`` sees ``counts[i]``."""
    if isinstance(result, dict):
        for name, value in list(result.items()):
            if name.startswith(_OTHERS):
                continue
            if name.endswith("attentions") and _is_run(value):
                each = zip(value, counts, strict=False)
                result[name] = type(value)(_square(part, count) for part, count in each)
            elif name.endswith("hidden_states") and _is_run(value):
                result[name] = _level(value, counts)
            else:
                result[name] = _cut(value, counts)
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

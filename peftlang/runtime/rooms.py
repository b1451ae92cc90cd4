"""Soft tokens before patches or frames: room for them in a call, and results without them.

The sequence is made longer by the module of a stack's first layer and shorter by that of its
last, both while torch records them (`admitted`); what the soft tokens are, the ``insert`` pass
writes into the graph. So whatever comes after the last layer is as the model made it. States and
attention weights that layers in between hand back are cut here, in plain Python.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        count, site = sum(map(length_of, prompts)), prompts[0].site
        first, last = item_path(stack, 0), item_path(stack, site.dims["layers"] - 1)
        rooms = dict(adapted.rooms)
        # As text, which torch never takes for a size that may vary.
        rooms[first] = (stack, str(count), "0")
        rooms[last] = (stack, rooms.get(last, (stack, "0"))[1], str(count))
        adapted.rooms = rooms
        given[room_slot(sequence_of(site))] = zeros(count)
        call.after.append(_cutting(count))
    try:
        with adapted.giving(given):
            yield
    finally:
        adapted.rooms = before


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
    stack, *counts = adapted.rooms[path]
    before, after = int(counts[0]), int(counts[1])
    if before:
        args, kwargs = _with_room(args, kwargs, before, stack)
    result = run(module, *args, **kwargs)
    return _without(result, after) if after else result


def _with_room(
    args: tuple[Any, ...], kwargs: dict[str, Any], count: int, stack: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The layer's arguments, the first hidden state among them made longer."""
    for index, value in enumerate(args):
        if _is_sequence(value):
            return (*args[:index], room(value, count, stack), *args[index + 1 :]), kwargs
    for name, value in kwargs.items():
        if _is_sequence(value):
            return args, {**kwargs, name: room(value, count, stack)}
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


def _cutting(count: int) -> Callable[[Any], Any]:
    return lambda result: _cut(result, count)


def _cut(result: Any, count: int) -> Any:
    if isinstance(result, dict):
        for name, value in list(result.items()):
            if name.startswith(_OTHERS):
                continue
            if name.endswith("attentions") and _is_run(value):
                result[name] = type(value)(_square(part, count) for part in value)
            elif name.endswith("hidden_states") and _is_run(value):
                result[name] = _level(value, count)
            else:
                result[name] = _cut(value, count)
    return result


def _is_run(value: Any) -> bool:
    return type(value) in {tuple, list} and bool(value)


def _level(states: Any, count: int) -> Any:
    """States of a stack's layers: the last, and what the first reads, are without soft tokens."""
    lengths = [s.shape[1] for s in states if isinstance(s, Tensor) and s.dim() == 3]
    own = min(lengths, default=0)
    return type(states)(
        s[:, count:] if isinstance(s, Tensor) and s.dim() == 3 and s.shape[1] == own + count else s
        for s in states
    )


def _square(weights: Any, count: int) -> Any:
    """Attention weights among the tokens that the caller knows."""
    square = isinstance(weights, Tensor) and weights.dim() == 4
    return weights[:, :, count:, count:] if square else weights

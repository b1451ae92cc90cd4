"""Soft prompts: the model's input sequence made longer before Dynamo sees it.

A soft prompt is a run of virtual tokens before the caller's: ids below zero that the `prompts` pass
looks up in the adapters' prompts. To the model they are tokens like others, so positions, masks,
scaled embeddings and pooling at the last token are right by themselves. Here every argument with
one entry per token is lengthened with them, and the results are cut to what the caller knows.

An encoder that is called by itself, as ``generate`` does, keeps the prompt's states: its decoder
must read them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.ir.plan import Site
from peftlang.passes.hide import PAST
from peftlang.passes.prompts import FIRST_VIRTUAL, PROMPT
from peftlang.passes.tokens import sequence_of, soft_slot
from peftlang.runtime.generation import (
    check_continues,
    held_by,
    hidden_prompt,
    hide_prompt,
    make_room,
    whole,
)
from peftlang.runtime.results import Cut, shortened
from peftlang.runtime.sequences import (
    cache_of,
    is_filled,
    is_ids,
    lengthened_by,
    named,
    parameters,
)
from peftlang.runtime.virtual import (
    embeddings,
    entrance_of,
    length_of,
    prompts_of,
    through_embedding,
)

if TYPE_CHECKING:
    from peftlang.runtime.adapted import Adapted
    from peftlang.runtime.calls import Call
    from peftlang.runtime.doors import Door

_FILLS: dict[str, float] = {
    "attention_mask": 1,
    "token_type_ids": 0,
    "mm_token_type_ids": 0,
    "global_attention_mask": 0,
}
_LABELS = ("labels", "shift_labels")
_PLACES = ("start_positions", "end_positions")
_MASKED = (
    ("encoder_hidden_states", "encoder_attention_mask"),
    ("encoder_outputs", "attention_mask"),
)
_FED = ("decoder_input_ids", "decoder_inputs_embeds", "labels")


@dataclass(frozen=True)
class Entrance:
    """A door as it concerns prompts.

    Attributes:
        two_sided: Its module feeds an encoder and a decoder.
        keeps: It is an encoder that a decoder reads, called by itself.
        window: Width of the model's sliding window.
    """

    two_sided: bool
    keeps: bool
    window: int | None


@contextmanager
def lengthened(adapted: "Adapted", door: "Door", module: nn.Module, call: "Call") -> Iterator[None]:
    """Put the active adapters' prompts before the input of an outermost call.

    Raises:
        PeftError: R515, an argument of the call leaves no room for a prompt.
    """
    found = [prompt for prompt in prompts_of(adapted) if prompt.site.weight is not None]
    cache = cache_of(call.kwargs)
    if not found:
        check_continues(cache, 0)
        yield
        return
    count = sum(map(length_of, found))
    if named(door.original, call.args, call.kwargs):
        call.args = ()
    if call.kwargs.get("return_dict") is None and not _returns_mapping(module):
        call.kwargs["return_dict"] = False
    _fit_masks(call, count)
    site = found[0].site
    if not _leads_to(door.path, entrance_of(adapted, site)):
        yield
        return
    inside = any(prompt.site.layer is not None for prompt in found)
    entrance = _entrance(adapted, door, module)
    with ExitStack() as stack:
        cache = None if entrance.two_sided or entrance.keeps else cache_of(call.kwargs)
        if is_filled(cache):
            check_continues(cache, count)
            if inside:
                stack.enter_context(adapted.giving({PAST: _past(adapted, held_by(cache))}))
            _continue(call, hidden_prompt(cache))
        elif _begin(call, entrance, count):
            values = embeddings(adapted, found, _tokens(call))
            _put(adapted, site, call, values)
            front = torch.zeros(count, device=values.device)
            given = {PROMPT: values, soft_slot(sequence_of(site)): front}
            if inside:
                given[PAST] = _past(adapted, 0)
            stack.enter_context(adapted.giving(given))
            make_room(cache, count, entrance.window)
            if not entrance.two_sided and not entrance.keeps:
                call.after.append(_hiding(count))
        stack.enter_context(whole(cache))
        yield


def _leads_to(path: str, entrance: str) -> bool:
    return not path or entrance == path or entrance.startswith(f"{path}.")


def _past(adapted: "Adapted", count: int) -> Tensor:
    return torch.tensor([count], device=adapted.device)


def _entrance(adapted: "Adapted", door: "Door", module: nn.Module) -> Entrance:
    root = adapted.root.__dict__["_peftlang_door"].original
    two_sided = "decoder_input_ids" in parameters(door.original)
    keeps = not two_sided and "decoder_input_ids" in parameters(root)
    config = getattr(module, "config", None)
    config = getattr(config, "text_config", config)
    window = getattr(config, "sliding_window", None)
    return Entrance(two_sided, keeps, window if isinstance(window, int) else None)


def _returns_mapping(module: nn.Module) -> bool:
    return getattr(getattr(module, "config", None), "return_dict", True) is not False


def _hiding(count: int) -> Any:
    def hide(result: Any) -> Any:
        outputs = result if hasattr(result, "get") else {}
        hide_prompt(cache_of(outputs), count)
        return result

    return hide


def _tokens(call: "Call") -> Tensor:
    """The caller's ids, or its embeddings when it gives those."""
    ids = call.kwargs.get("input_ids")
    value = ids if ids is not None else call.kwargs["inputs_embeds"]
    assert isinstance(value, Tensor)
    return value


def _begin(call: "Call", entrance: Entrance, count: int) -> bool:
    """Lengthen what has one entry per token; False when the call brings no sequence."""
    kwargs = call.kwargs
    ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
    if kwargs.get("encoder_outputs") is not None or (not is_ids(ids) and embeds is None):
        return False
    shape = _tokens(call).shape if embeds is None else embeds.shape[:-1]
    tokens, dims = shape[-1], len(shape)
    fed = any(kwargs.get(name) is not None for name in _FED)
    own = not entrance.two_sided or not fed
    for name, fill in _FILLS.items():
        if kwargs.get(name) is not None:
            kwargs[name] = lengthened_by(_per_token(name, kwargs[name], dims), count, fill)
    for name in _LABELS if own else ():
        labels = kwargs.get(name)
        if (
            isinstance(labels, Tensor)
            and is_ids(labels)
            and labels.dim() == dims
            and labels.shape[-1] == tokens
        ):
            kwargs[name] = lengthened_by(labels, count, -100)
    for name in _PLACES if own else ():
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name] + count
    _move_positions(kwargs, count)
    for name in ("position_ids", "cache_position"):
        moved = kwargs.get(name)
        if moved is not None:
            front = torch.arange(count, dtype=moved.dtype, device=moved.device)
            kwargs[name] = torch.cat([front.expand(*moved.shape[:-1], count), moved], dim=-1)
    kept = kwargs.get("logits_to_keep")
    if isinstance(kept, Tensor):
        kwargs["logits_to_keep"] = torch.where(kept >= 0, kept + count, kept)
    call.prompt = count
    cut = Cut(count, tokens, own=own, encoder=entrance.two_sided)
    if not entrance.keeps:
        shortened(call, cut)
    return True


def _continue(call: "Call", count: int) -> None:
    """A call whose cache holds the prompt already: its tokens come further back."""
    kwargs = call.kwargs
    mask = kwargs.get("attention_mask")
    if mask is not None:
        kwargs["attention_mask"] = lengthened_by(_per_token("attention_mask", mask, 2), count, 1)
    _move_positions(kwargs, count)
    shortened(call, Cut(count, None, own=True, encoder=False))


def _move_positions(kwargs: dict[str, Any], count: int) -> None:
    for name in ("position_ids", "cache_position"):
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name] + count


def _per_token(name: str, value: Any, dims: int) -> Tensor:
    if isinstance(value, Tensor) and value.dim() == dims:
        return value
    what = f"of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise PeftError(
        f"a soft prompt lengthens the sequence, and `{name}` is {what}",
        code="R515",
        help=f"pass `{name}` with one entry per token, [batch, tokens], or none",
    )


def _fit_masks(call: "Call", count: int) -> None:
    """Masks over states of an encoder that kept its prompt: the caller's lack the prompt."""
    for states_name, mask_name in _MASKED:
        states, mask = call.kwargs.get(states_name), call.kwargs.get(mask_name)
        if states is not None and not isinstance(states, Tensor):
            states = states[0]
        if not isinstance(states, Tensor) or not isinstance(mask, Tensor) or mask.dim() != 2:
            continue
        if states.shape[1] == mask.shape[1] + count:
            call.kwargs[mask_name] = lengthened_by(mask, count, 1)
            call.prompt = count
            shortened(call, Cut(count, None, own=False, encoder=False))


def _put(adapted: "Adapted", site: Site, call: "Call", values: Tensor) -> None:
    """Put the virtual tokens before the caller's."""
    count, ids = values.shape[-2], call.kwargs.get("input_ids")
    if ids is None:
        embeds = call.kwargs["inputs_embeds"]
        front = through_embedding(adapted, site, values).to(embeds.dtype)
        front = front.expand(*embeds.shape[:-2], *front.shape[-2:])
        call.kwargs["inputs_embeds"] = torch.cat([front, embeds], dim=-2)
        return
    virtual = FIRST_VIRTUAL - torch.arange(count, dtype=ids.dtype, device=ids.device)
    call.kwargs["input_ids"] = torch.cat([virtual.expand(*ids.shape[:-1], count), ids], dim=-1)

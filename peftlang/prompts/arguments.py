"""Soft tokens before a sequence of ids: a call's arguments made longer before the model runs.

To the model soft tokens are tokens like others, with ids below zero, so positions, masks, scaled
embeddings and pooling at the last token are right by themselves. Here every argument with one entry
per token is lengthened with them; what they are is written where their embeddings are looked up
(the `prompts` pass), and the results are cut to what the caller knows.

An encoder that is called by itself, as ``generate`` does, keeps the soft tokens' states: its
decoder must read them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture.storage import device_of
from peftlang.diagnostics import PeftError
from peftlang.emit.tokens import filled_slot
from peftlang.ir.plan import ActivePlan, Site
from peftlang.ir.soft_tokens import Entry, entries
from peftlang.prompts.cache import (
    check_continues,
    held_by,
    hidden_prompt,
    hide_prompt,
    make_room,
    whole,
)
from peftlang.prompts.facts import Arguments
from peftlang.prompts.places import FIRST_SOFT_ID, cached_slot
from peftlang.prompts.results import Cut, levelled, shortened
from peftlang.prompts.sequences import (
    cache_of,
    forward_of,
    is_filled,
    is_ids,
    lengthened_by,
    parameters,
)
from peftlang.prompts.sites import reader_of

Step = Callable[[Any], Any]
"""What is done to a result."""

Soft = Callable[[Sequence[Entry], Tensor], Tensor]
"""The embeddings of soft tokens before a sequence of embeddings ``[batch, tokens, d]``."""

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
    """A module that is called from outside, as it concerns soft tokens.

    Attributes:
        two_sided: Its module feeds an encoder and a decoder.
        keeps: It is an encoder that a decoder reads, called by itself.
        window: Width of the model's sliding window.
    """

    two_sided: bool
    keeps: bool
    window: int | None


@contextmanager
def lengthened(
    given: Arguments, active: Sequence[ActivePlan], soft: Soft, after: list[Step]
) -> Iterator[dict[str, Tensor]]:
    """Make place for the active adapters' soft tokens in a call; what is known of the call then.

    Args:
        given: The call's arguments.
        active: The adapters that act.
        soft: Gives the embeddings of soft tokens before a sequence of embeddings.
        after: Is given what has to be done to the result, last first.

    Raises:
        PeftError: R515, an argument of the call leaves no room for soft tokens.
    """
    found = entries(active)
    facts = _inside_layers(given, [e for e in found if not e.has_ids], after)
    with ExitStack() as stack:
        facts |= _before_ids(given, [e for e in found if e.has_ids], soft, after, stack)
        yield facts


def _before_ids(
    given: Arguments, found: list[Entry], soft: Soft, after: list[Step], stack: ExitStack
) -> dict[str, Tensor]:
    cache = cache_of(given.kwargs)
    if not found:
        check_continues(cache, 0)
        return {}
    count = sum(entry.count for entry in found)
    given.name_all()
    if given.kwargs.get("return_dict") is None and not _returns_mapping(given.module):
        given.kwargs["return_dict"] = False
    _fit_masks(given, count, after)
    site = found[0].site
    if not _leads_to(given.path, _entered(given.root, site)):
        return {}
    reserves = any(entry.site.layer is not None for entry in found)
    entrance = _entrance(given)
    cache = None if entrance.two_sided or entrance.keeps else cache_of(given.kwargs)
    facts: dict[str, Tensor] = {}
    device = _device(given)
    if is_filled(cache):
        check_continues(cache, count)
        if reserves:
            facts[cached_slot(site.sequence).key] = torch.tensor([held_by(cache)], device=device)
        _continue(given, hidden_prompt(cache), after)
    elif _begin(given, entrance, count, after):
        facts[filled_slot(site.sequence).key] = torch.zeros(count, device=device)
        if reserves:
            facts[cached_slot(site.sequence).key] = torch.tensor([0], device=device)
        _put(given, found, count, soft)
        make_room(cache, count, entrance.window)
        if not entrance.two_sided and not entrance.keeps:
            after.append(_hiding(count))
    stack.enter_context(whole(cache))
    return facts


def _put(given: Arguments, found: list[Entry], count: int, soft: Soft) -> None:
    """Put soft tokens before the caller's: ids below zero, or embeddings."""
    ids = given.kwargs.get("input_ids")
    if ids is not None:
        virtual = FIRST_SOFT_ID - torch.arange(count, dtype=ids.dtype, device=ids.device)
        given.kwargs["input_ids"] = torch.cat([virtual.expand(*ids.shape[:-1], count), ids], dim=-1)
        return
    embeds = given.kwargs["inputs_embeds"]
    front = soft(found, embeds).to(embeds.dtype)
    given.kwargs["inputs_embeds"] = torch.cat([front, embeds], dim=-2)


def _entered(root: nn.Module, site: Site) -> str:
    """Path of the module that reads the sequence which a site's soft tokens come before."""
    return site.path if site.layer is None else reader_of(root, site.path) or ""


def _leads_to(path: str, entered: str) -> bool:
    return not path or entered == path or entered.startswith(f"{path}.")


def _device(given: Arguments) -> torch.device:
    return device_of(given.root)


def _entrance(given: Arguments) -> Entrance:
    two_sided = "decoder_input_ids" in given.accepted
    keeps = not two_sided and "decoder_input_ids" in parameters(forward_of(given.root))
    config = getattr(given.module, "config", None)
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


def _tokens(given: Arguments) -> Tensor:
    """The caller's ids, or its embeddings when it gives those."""
    ids = given.kwargs.get("input_ids")
    value = ids if ids is not None else given.kwargs["inputs_embeds"]
    assert isinstance(value, Tensor)
    return value


def _begin(given: Arguments, entrance: Entrance, count: int, after: list[Step]) -> bool:
    """Lengthen what has one entry per token; False when the call brings no sequence."""
    kwargs = given.kwargs
    ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
    if kwargs.get("encoder_outputs") is not None or (not is_ids(ids) and embeds is None):
        return False
    shape = _tokens(given).shape if embeds is None else embeds.shape[:-1]
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
    given.soft = count
    cut = Cut(count, tokens, own=own, encoder=entrance.two_sided)
    if not entrance.keeps:
        after.append(shortened(kwargs, cut))
    return True


def _continue(given: Arguments, count: int, after: list[Step]) -> None:
    """A call whose cache holds the prompt already: its tokens come further back."""
    kwargs = given.kwargs
    mask = kwargs.get("attention_mask")
    if mask is not None:
        kwargs["attention_mask"] = lengthened_by(_per_token("attention_mask", mask, 2), count, 1)
    _move_positions(kwargs, count)
    after.append(shortened(kwargs, Cut(count, None, own=True, encoder=False)))


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


def _fit_masks(given: Arguments, count: int, after: list[Step]) -> None:
    """Masks over states of an encoder that kept its prompt: the caller's lack the prompt."""
    for states_name, mask_name in _MASKED:
        states, mask = given.kwargs.get(states_name), given.kwargs.get(mask_name)
        if states is not None and not isinstance(states, Tensor):
            states = states[0]
        if not isinstance(states, Tensor) or not isinstance(mask, Tensor) or mask.dim() != 2:
            continue
        if states.shape[1] == mask.shape[1] + count:
            given.kwargs[mask_name] = lengthened_by(mask, count, 1)
            given.soft = count
            after.append(shortened(given.kwargs, Cut(count, None, own=False, encoder=False)))


# Sequences without ids: made longer by the layers


def _inside_layers(given: Arguments, found: list[Entry], after: list[Step]) -> dict[str, Tensor]:
    """Say that layers take soft tokens in.

    Raises:
        PeftError: R515, the call says which patches count, and the soft tokens are none of them.
    """
    facts: dict[str, Tensor] = {}
    for stack in dict.fromkeys(entry.site.stack for entry in found):
        own = [entry for entry in found if entry.site.stack == stack]
        if not all(_holds(given.path, entry.site.path) for entry in own):
            continue
        _check_mask(given)
        counts = [0] * own[0].site.dims["layers"]
        for entry in own:
            counts[max(entry.layer, 0)] += entry.count
        facts[filled_slot(own[0].site.sequence).key] = torch.zeros(
            sum(counts), device=_device(given)
        )
        after.append(levelled(list(accumulate(counts))))
    return facts


def _holds(entered: str, path: str) -> bool:
    return not entered or path == entered or path.startswith(f"{entered}.")


def _check_mask(given: Arguments) -> None:
    if "input_ids" in given.accepted:
        return
    given.name_all()
    if given.kwargs.get("attention_mask") is not None:
        raise PeftError(
            "soft tokens come before the patches, and `attention_mask` has no entries for them",
            code="R515",
            help="leave `attention_mask` out",
        )

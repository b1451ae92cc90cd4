"""Where the prompt's tokens lie, for methods that change chosen tokens only.

The prompt is what a call without earlier tokens in its cache is given: padding and soft tokens
do not count, and tokens of later calls are generated ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.emit.tokens import FROM_END, FROM_START, IDS, REAL, reads_places, token_slot
from peftlang.ir.plan import ActivePlan, Site
from peftlang.ir.reach import asking, mixing
from peftlang.ir.soft_tokens import entries
from peftlang.prompts.sequences import cache_of, forward_of, is_filled, is_ids, named, parameters
from peftlang.prompts.sites import reader_of

FAR = 1 << 40
"""The place of a token that is no part of the prompt."""


@dataclass(frozen=True)
class Names:
    """The arguments that tell of one sequence.

    Attributes:
        tokens: Those that hold it, or are as long as it is; the first that is there counts.
        mask: Which of it is no padding.
        cached: Whether the call's cache holds earlier tokens of it.
        prompted: Whether soft prompts go before it.
    """

    tokens: tuple[str, ...]
    mask: str
    cached: bool = False
    prompted: bool = False


_SINGLE = Names(("input_ids", "inputs_embeds"), "attention_mask", cached=True, prompted=True)
_ENCODER = Names(("input_ids", "inputs_embeds", "encoder_outputs"), "attention_mask", prompted=True)
_DECODER = Names(
    ("decoder_input_ids", "decoder_inputs_embeds", "labels", "input_ids"),
    "decoder_attention_mask",
    cached=True,
)
_CROSS = Names(("encoder_hidden_states",), "encoder_attention_mask", prompted=True)


@dataclass
class Arguments:
    """The arguments of a call with which a model is entered.

    Attributes:
        root: The model.
        path: The module that is called.
        module: That module.
        args: Positional arguments.
        kwargs: Those given by name.
        soft: How many soft tokens stand before the sequence that the caller gave.
    """

    root: nn.Module
    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    soft: int = 0

    @property
    def accepted(self) -> Mapping[str, Any]:
        """The parameters of the module's forward, by name."""
        return parameters(forward_of(self.module))

    def name_all(self) -> None:
        """Give all arguments by name, where they have names."""
        if named(forward_of(self.module), self.args, self.kwargs):
            self.args = ()


def token_facts(given: Arguments, active: Sequence[ActivePlan]) -> dict[str, Tensor]:
    """Where the tokens of a call's sequences lie, for what asks."""
    wanted = _wanted(active)
    if not wanted:
        return {}
    given.name_all()
    _check_soft(active)
    _check_alone(active, given)
    found: dict[str, Tensor] = {}
    for side, names in _sequences(given, wanted).items():
        tokens = _tokens(names, given)
        if tokens is None:
            continue
        real = _real(tokens, names, given)
        valid = _prompted(real, tokens, names, given)
        found[token_slot(side, FROM_START).key] = _counted(valid)
        found[token_slot(side, FROM_END).key] = _counted(valid.flip(-1)).flip(-1)
        found[token_slot(side, REAL).key] = real
        ids = _ids(names, given)
        if ids is not None:
            found[token_slot(side, IDS).key] = ids
    return found


def _check_soft(active: Sequence[ActivePlan]) -> None:
    """A method for soft tokens needs one that puts them there.

    Raises:
        PeftError: R518.
    """
    uses = [use for plan in active for use in plan.plan.uses.values()]
    reading = [use for use in uses if any(c.op == "soft" for c in asking(use.method))]
    if reading and not entries(active):
        raise PeftError(
            f"`{reading[0].method.name}` is for soft tokens, and no active method at `prompt` puts "
            "any before the sequence",
            code="R518",
            help="use it beside `prompt_tuning`, or another method at `prompt`",
        )


def _check_alone(active: Sequence[ActivePlan], given: Arguments) -> None:
    """A call that continues a cached one brings its newest tokens alone.

    Raises:
        PeftError: R520, a method reads the tokens before them, which the cache does not hold.
    """
    if not is_filled(cache_of(given.kwargs)):
        return
    for plan in (active_plan.plan for active_plan in active):
        for placement in plan.placements:
            reading = mixing(plan.uses[placement.label].method)
            sites = (plan.sites[site] for site in placement.sites)
            if reading and any(site.sequence != "encoder" for site in sites):
                raise _cached(f"`{reading[0].op}` of `{placement.method}`")
            for site, other in plan.tapped_sequences(placement):
                if site.role == "prompt":
                    continue  # Soft tokens are made where a sequence begins, and cached.
                if site.sequence == other.sequence or other.role in CACHED:
                    raise _cached(f"a tap of `{placement.method}`")


CACHED = {"cross_attn.k", "cross_attn.v"}
"""Roles that do not run where a cache is filled."""


def _cached(reader: str) -> PeftError:
    return PeftError(
        f"{reader} reads all tokens of a sequence, and this call has only what the cache does not "
        "hold",
        code="R520",
        help="give the whole sequence: `use_cache=False`",
    )


def _wanted(active: Sequence[ActivePlan]) -> dict[str, str]:
    """A site's module path for each sequence whose places are read."""
    found: dict[str, str] = {}
    for plan in (active_plan.plan for active_plan in active):
        for placement in plan.placements:
            method = plan.uses[placement.label].method
            inside = any(_comes_in_later(plan.sites[site]) for site in placement.sites)
            if reads_places(method) or inside:
                for site_id in placement.sites:
                    site = plan.sites[site_id]
                    found.setdefault(site.sequence, site.path)
            for _, other in plan.tapped_sequences(placement):
                found.setdefault(other.sequence, other.path)
    return found


def _comes_in_later(site: Site) -> bool:
    """Whether soft tokens come in at a layer, where what they are made of may have padding."""
    return site.role == "prompt" and site.layer is not None


def _sequences(given: Arguments, wanted: Mapping[str, str]) -> dict[str, Names]:
    own = given.accepted
    if "decoder_input_ids" in own:
        both = {"encoder": _ENCODER, "decoder": _DECODER}
        return {side: both[side] for side in wanted if side in both}
    found = {"encoder": _CROSS} if "encoder" in wanted and "encoder_hidden_states" in own else {}
    for side, path in wanted.items():
        if "input_ids" in own and _reads(given.root, given.path, path):
            found[side] = _SINGLE
    return found


def _reads(root: nn.Module, entered: str, path: str) -> bool:
    """Whether the token ids that a module is given are the sequence at ``path`` below it."""
    if entered and path != entered and not path.startswith(f"{entered}."):
        return False
    return reader_of(root, path) is not None


def _tokens(names: Names, given: Arguments) -> Tensor | None:
    """What holds the sequence; None if the call does not say."""
    values = (given.kwargs.get(name) for name in names.tokens)
    value: Any = next((v for v in values if v is not None), None)
    if value is not None and not isinstance(value, Tensor):
        value = value[0]
    return value if isinstance(value, Tensor) and value.dim() > 1 else None


def _real(value: Tensor, names: Names, given: Arguments) -> Tensor:
    """Which tokens are no padding, ``[batch, tokens]``; soft and generated ones are real."""
    shape = value.shape if is_ids(value) else value.shape[:-1]
    mask = given.kwargs.get(names.mask)
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != len(shape)):
        raise PeftError(
            f"the adapter asks which tokens there are, and `{names.mask}` does not say which are "
            "padding",
            code="R515",
            help=f"pass `{names.mask}` with one entry per token, [batch, tokens], or none",
        )
    real = torch.ones(shape, dtype=torch.bool, device=value.device)
    if mask is not None and mask.shape[-1] >= shape[-1] and mask.shape[:-1] == shape[:-1]:
        # Behind a cache the mask is of all tokens, the newest last.
        real = mask[..., mask.shape[-1] - shape[-1] :] > 0
    return real.flatten(0, -2)


def _prompted(real: Tensor, value: Tensor, names: Names, given: Arguments) -> Tensor:
    """Which tokens belong to the prompt, ``[batch, tokens]``."""
    if names.cached and is_filled(cache_of(given.kwargs)):
        return torch.zeros_like(real)
    if is_ids(value) and given.kwargs.get("labels") is not value:
        return real & (value.flatten(0, -2) >= 0)
    own = torch.ones_like(real)
    if names.prompted:
        own[..., : given.soft] = False
    return real & own


def _ids(names: Names, given: Arguments) -> Tensor | None:
    """The tokens' ids, ``[batch, tokens]``; of a decoder fed with labels, what it makes of them."""
    value = _tokens(names, given)
    if not is_ids(value):
        return None
    shift = getattr(given.module, "prepare_decoder_input_ids_from_labels", None)
    if given.kwargs.get("labels") is value and "labels" in names.tokens:
        value = shift(labels=value) if shift is not None else None
    return value.flatten(0, -2) if isinstance(value, Tensor) else None


def _counted(valid: Tensor) -> Tensor:
    """The number of prompt tokens before each; far for those that are none."""
    return (valid.cumsum(-1) - 1).masked_fill(~valid, FAR)

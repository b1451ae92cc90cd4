"""Merging: a plain base model that does what the adapted one does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from peftlang.capture import Weights, is_adapters
from peftlang.capture.storage import assign
from peftlang.diagnostics import PeftError
from peftlang.passes.fold import Folded, Unfoldable, fold
from peftlang.pipeline import survey
from peftlang.requantising import prepared
from peftlang.runtime import registry as state
from peftlang.runtime.holders import AdapterTensors
from peftlang.runtime.registry import AdapterRecord, Registry
from peftlang.runtime.shards import settle
from peftlang.sites.neighbours import neighbours

Model = TypeVar("Model", bound=nn.Module)

MERGED = "_peftlang_merged"


class NotMergeable(PeftError):
    """Some change is no change of weights.

    Attributes:
        sites: Each site that cannot be folded, with the method and the reason.
    """

    def __init__(self, sites: list[Unfoldable]) -> None:
        first, count = sites[0], len(sites)
        more = f" (and {count - 1} more)" if count > 1 else ""
        super().__init__(
            f"`{first.method}` at {first.site.id} cannot be merged: {first.reason}{more}",
            code="R513",
            help="`peftlang.why_not_mergeable(model)` lists every site; keep the adapter, or "
            "place the method where its change is one of weights",
        )
        self.sites = sites


@dataclass(frozen=True)
class Merge:
    """What a merge did.

    Attributes:
        adapters: Names of the adapters that were merged.
        rounding: Largest difference between the merged weight as computed and as stored, by
            parameter, absolute; what the base's number type cost.
    """

    adapters: tuple[str, ...]
    rounding: dict[str, float]


@dataclass
class _Kept:
    report: Merge
    parameters: dict[str, Tensor]
    records: dict[str, AdapterRecord]
    tensors: dict[str, AdapterTensors]
    owner: Registry
    is_report: bool = False
    """Nothing can be undone; how much was lost is there to be read."""


def why_not_mergeable(model: nn.Module, example_inputs: Any = None) -> list[Unfoldable]:
    """Every site of the active adapters that cannot be folded into weights; empty if all can.

    Raises:
        PeftError: R505, the model has no adapter.
    """
    return _folded(state.of(model), example_inputs).refused


def merge(
    model: Model, *, keep: bool = False, example_inputs: Any = None, requantise: bool = False
) -> Model:
    """Fold the active adapters into the base's weights, in place; no trace of them remains.

    Weights are computed in float64 and stored in the base's own number type.

    Args:
        model: An adapted model, in any mode; what is merged is its behaviour in eval mode.
        keep: Remember the base's weights and the adapters, for ``unmerge``.
        example_inputs: As for ``compile``.
        requantise: Quantise merged weights anew where the base's are quantised, in the same way.
            That changes them; ``last_merge(model).rounding`` says by how much.

    Returns:
        ``model``, a plain model of its class.

    Raises:
        NotMergeable: R513, with every site that cannot be folded.
        PeftError: R505, the model has no adapter; R535, a weight is quantised, and is to stay as it
            is, or cannot be quantised anew; R536, a weight is offloaded. In each case the model is
            unchanged.
    """
    owner = state.of(model)
    settle(model)
    folded = _folded(owner, example_inputs)
    if folded.refused:
        raise NotMergeable(folded.refused)
    weights = Weights(model)
    anew = prepared(weights, folded.parameters, requantise=requantise, keep=keep)
    rounding = {**folded.rounding, **{name: one.error for name, one in anew.items()}}
    parameters: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    plain = {n: v for n, v in folded.parameters.items() if n not in anew}
    _exchange(parameters, plain)
    kept = _Kept(
        Merge(owner.active, rounding),
        plain,
        dict(owner.records),
        {n: owner.tensors(n) for n in owner.records},
        owner,
        is_report=not keep,
    )
    for name in list(owner.records):
        owner.remove(name)
    for one in anew.values():
        one.install()
    if keep or anew:
        model.__dict__[MERGED] = kept
    return model


def _exchange(parameters: Mapping[str, Tensor], values: dict[str, Tensor]) -> None:
    """Store values in parameters, all or none; afterwards ``values`` holds what was there."""
    before: dict[str, Tensor] = {}
    with torch.no_grad():
        try:
            for name, value in values.items():
                before[name] = parameters[name].detach().clone()
                assign(parameters[name], value)
                values[name] = before[name]
        except BaseException:
            for name, value in before.items():
                parameters[name].copy_(value)
            raise


def unmerge(model: Model) -> Model:
    """Undo ``merge(model, keep=True)``: the base's weights bit for bit, and its adapters.

    Raises:
        PeftError: R514, nothing was kept to undo.
    """
    kept = model.__dict__.get(MERGED)
    if not isinstance(kept, _Kept) or kept.is_report:
        raise _nothing_kept()
    del model.__dict__[MERGED]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, value in kept.parameters.items():
        with torch.no_grad():
            parameters[name].copy_(value)
    model.__dict__[state.STATE] = kept.owner
    state.freeze(model)
    for name, record in kept.records.items():
        kept.owner.add(name, record, kept.tensors[name])
    kept.owner.activate(kept.report.adapters)
    return model


def last_merge(model: nn.Module) -> Merge:
    """What ``merge`` did, with ``keep=True`` or ``requantise=True``: adapters, and roundings.

    Raises:
        PeftError: R514, nothing was kept.
    """
    kept = model.__dict__.get(MERGED)
    if not isinstance(kept, _Kept):
        raise _nothing_kept()
    return kept.report


def _nothing_kept() -> PeftError:
    return PeftError(
        "there is no merge to undo",
        code="R514",
        help="merge with keep=True, or load the base and the saved adapter again",
    )


def folded_weights(model: nn.Module, example_inputs: Any = None) -> Folded:
    """The weights that ``merge`` would store, and what it would refuse; the model is unchanged.

    Raises:
        PeftError: R505, the model has no adapter.
    """
    return _folded(state.of(model), example_inputs)


def _folded(owner: Registry, example_inputs: Any) -> Folded:
    root = owner.root
    surveyed = survey(root, example_inputs) if example_inputs is not None else owner.survey
    near = neighbours(surveyed.graph, surveyed.sites)
    with torch.no_grad():
        return fold(owner.plans(), Weights(root), owner.value, near, _tied(root))


def _tied(root: nn.Module) -> dict[str, tuple[str, ...]]:
    """Modules that hold each parameter, where there are several."""
    first: dict[int, str] = {}
    holders: dict[str, list[str]] = {}
    for path, module in root.named_modules():
        if is_adapters(path):
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            name = first.setdefault(id(parameter), f"{path}.{leaf}" if path else leaf)
            holders.setdefault(name, []).append(path)
    return {name: tuple(paths) for name, paths in holders.items() if len(paths) > 1}

"""The embeddings of virtual tokens: what the active methods put before the sequence."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from peftlang.ir.expr import Expr
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Method, fixed
from peftlang.ir.plan import Placement, Site
from peftlang.ir.sizes import site_sizes
from peftlang.ir.types import Level
from peftlang.passes.entering import soft_tokens
from peftlang.passes.prompts import parts_before
from peftlang.runtime.sequences import reader_of

if TYPE_CHECKING:
    from peftlang.runtime.adapted import Adapted


@dataclass(frozen=True, eq=False)
class Prompt:
    """One method that puts something before the sequence.

    Attributes:
        adapter: Name of its adapter on the model.
        parts: What it puts there, in order.
    """

    adapter: str
    placement: Placement
    method: Method
    site: Site
    parts: tuple[Expr, ...]

    @property
    def layer(self) -> int:
        """The layer at which its soft tokens come in; -1 for the model's input."""
        return -1 if self.site.layer is None else self.site.layer


def prompts_of(adapted: "Adapted") -> list[Prompt]:
    """The active methods at ``prompt``, in the order in which they act: layer by layer."""
    plans = [(name, adapted.records[name].plan) for name in adapted.active]
    found = [
        _prompt(name, placement, plan.uses[placement.label].method, plan.sites[site])
        for name, plan in plans
        for placement in plan.placements
        for site in placement.sites
        if plan.sites[site].role == "prompt"
    ]
    return sorted(found, key=lambda prompt: prompt.layer)


def _prompt(adapter: str, placement: Placement, method: Method, site: Site) -> Prompt:
    bound = fixed(method, placement.args)
    return Prompt(adapter, placement, bound, site, tuple(parts_before(bound)))


def length_of(prompt: Prompt) -> int:
    """How many virtual tokens a method puts before the sequence."""
    return soft_tokens(prompt.method, prompt.placement.args, prompt.site)


def entrance_of(adapted: "Adapted", site: Site) -> str:
    """Path of the module that reads the sequence which a site's soft tokens come before."""
    return site.path if site.layer is None else reader_of(adapted.root, site.path) or ""


def embeddings(adapted: "Adapted", prompts: list[Prompt], tokens: Tensor) -> Tensor:
    """Embeddings of all virtual tokens: ``[n, d_h]``, or ``[batch, n, d_h]`` if rows differ.

    Args:
        adapted: The adapted model.
        prompts: Methods in the order in which they act; a later one's tokens come further front.
        tokens: Ids ``[..., tokens]``, or embeddings ``[..., tokens, d_h]`` of the caller's tokens.
    """
    front: list[Tensor] = []
    for prompt in prompts:
        inside = prompt.site.layer is not None
        values = (
            [_filling(adapted, prompt)] if inside else _evaluated(adapted, prompt, tokens, front)
        )
        front = [*values, *front]
    rows = max((value.shape[0] for value in front if value.dim() == 3), default=None)
    if rows is None:
        return torch.cat(front)
    batch = tokens.shape[0]
    return torch.cat([value.expand(batch, *value.shape[-2:]) for value in front], dim=1)


def _filling(adapted: "Adapted", prompt: Prompt) -> Tensor:
    """What stands in the room for soft tokens that a layer brings: nothing sees it.

    Not zeros, at which norms that methods in the layers before may take have no gradient.
    """
    assert prompt.site.weight is not None
    weight = adapted.root.get_parameter(prompt.site.weight)
    row = torch.linspace(-1, 1, weight.shape[-1], dtype=weight.dtype, device=weight.device)
    return row.expand(length_of(prompt), -1)


def _evaluated(
    adapted: "Adapted", prompt: Prompt, tokens: Tensor, front: list[Tensor]
) -> list[Tensor]:
    groups = prompt.placement.tensors[prompt.site.id]
    inputs = {entry.name for entry in prompt.method.inputs}

    def lookup(name: str) -> Any:
        if name in groups:
            return adapted.tensors(prompt.adapter).tensor(groups[name])
        if name in inputs:
            return adapted.slot(f"input.{name}")
        return _sequence(adapted, prompt.site, tokens, front)

    interpret = Interpreter(
        torch,
        site_sizes(prompt.method, prompt.placement.args, prompt.site),
        lookup,
        training=adapted.root.training,
    )
    return [_rows(interpret(part), part) for part in prompt.parts]


def _rows(value: Tensor, part: Expr) -> Tensor:
    return value if part.type.level is Level.CONST or value.dim() == 3 else value.unsqueeze(0)


def _sequence(adapted: "Adapted", site: Site, tokens: Tensor, front: list[Tensor]) -> Tensor:
    """``h`` as a method finds it: the tokens' embeddings, behind what earlier methods put."""
    own = tokens
    if not tokens.is_floating_point():
        assert site.weight is not None
        own = torch.nn.functional.embedding(tokens, adapted.root.get_parameter(site.weight))
    before = [value.expand(own.shape[0], *value.shape[-2:]) for value in front]
    return torch.cat([*before, own], dim=1)


def through_embedding(adapted: "Adapted", site: Site, values: Tensor) -> Tensor:
    """Embeddings as the model's embedding module gives them out: scaled, where it scales."""
    assert site.weight is not None
    path, _, leaf = site.weight.rpartition(".")
    module: Any = adapted.root.get_submodule(path)
    table = values.reshape(-1, values.shape[-1])
    places = torch.arange(len(table), device=table.device).view(values.shape[:-1])
    padding = getattr(module, "padding_idx", None)
    enabled, adapted.enabled = adapted.enabled, False
    try:
        if padding is not None:
            module.padding_idx = None
        found: Tensor = torch.func.functional_call(module, {leaf: table}, (places,))
    finally:
        adapted.enabled = enabled
        if padding is not None:
            module.padding_idx = padding
    return found

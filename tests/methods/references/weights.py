"""The adapter's tensors as a reference sees them: by role, layer and name."""

from typing import Any

import torch
from torch import Tensor

from peftlang.ir.plan import TRAINED
from tests.methods.references.anatomy import Layer


class Weights:
    """Copies of an adapter's tensors, each a leaf of its own, with the adapter's names.

    Args:
        plan: The adapter's plan, which says what group serves which site.
        tensors: Every tensor of the adapter by the name of its group.
    """

    def __init__(self, plan: Any, tensors: dict[str, Tensor]) -> None:
        self._plan = plan
        self.used: set[str] = set()
        self.leaves = {
            name: tensor.detach().clone().requires_grad_(plan.groups[name].trainable)
            for name, tensor in tensors.items()
        }

    def sites(self, role: str) -> list[Any]:
        return [
            (placement, self._plan.sites[site])
            for placement in self._plan.placements
            for site in placement.sites
            if self._plan.sites[site].role == role
        ]

    def at(self, role: str, layer: Layer) -> dict[str, Tensor]:
        """Tensors by name at the one site of this role in this layer."""
        found = [
            (placement, site)
            for placement, site in self.sites(role)
            if site.layer == layer.index and (layer.side is None or site.side == layer.side)
        ]
        assert len(found) == 1, f"{role} of layer {layer.index}: {len(found)} sites"
        return self._tensors(*found[0])

    def at_path(self, role: str, path: str) -> dict[str, Tensor]:
        """Tensors by name at the site of this role that this module owns."""
        found = [(placement, site) for placement, site in self.sites(role) if site.path == path]
        assert len(found) == 1, f"{role} at {path}: {len(found)} sites"
        return self._tensors(*found[0])

    def alone(self, role: str) -> dict[str, Tensor]:
        """Tensors by name at the model's only site of this role."""
        ((placement, site),) = self.sites(role)
        return self._tensors(placement, site)

    def trained(self, name: str) -> Tensor:
        """The copy that trains of a parameter of the base."""
        self.used.add(f"{TRAINED}.{name}")
        return self.leaves[f"{TRAINED}.{name}"]

    def _tensors(self, placement: Any, site: Any) -> dict[str, Tensor]:
        groups = placement.tensors[site.id]
        self.used |= set(groups.values())
        return {name: self.leaves[group] for name, group in groups.items()}

    def gradients(self) -> dict[str, Tensor | None]:
        return {name: leaf.grad for name, leaf in self.leaves.items() if leaf.requires_grad}

    def unused(self) -> set[str]:
        """Groups that no site of a reference asked for: sites that should not be there."""
        return set(self.leaves) - self.used


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest difference, relative to the largest magnitude of `want`."""
    assert got.shape == want.shape, (got.shape, want.shape)
    scale = want.abs().max().clamp_min(torch.finfo(want.dtype).tiny)
    return float(((got - want).abs().max() / scale).detach())

"""Methods at one projection: outputs and gradients are the reference's, and HF PEFT's."""

import warnings
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from tests.methods.one_site import Projection, one_site

Args = dict[str, Any]

CASES: list[tuple[str, Args]] = [
    ("c3a", {"b": 8}),
    ("c3a", {"b": 1}),
    ("hra", {"r": 4}),
    ("randlora", {"r": 4, "alpha": 6.0}),
    ("miss", {"r": 4}),
    ("hira", {"r": 3}),
    ("gralora", {"r": 8, "k": 4, "alpha": 6.0}),
    ("road", {"g": 8}),
    ("pissa", {"r": 3, "alpha": 6.0}),
    ("olora", {"r": 3, "alpha": 6.0}),
    ("goft", {}),
    ("qgoft", {}),
    ("mpo", {"r": 3}),
    ("svfit", {"r": 5}),
    ("svft", {"k": 6, "w": 2}),
    ("svft", {"k": 6, "w": 0}),
    ("surm", {"s": 0.5}),
    ("surm_adapter", {}),
    ("melora", {"r": 2, "n": 4}),
    ("sharelora", {"r": 3}),
    ("lora_plus", {"r": 3}),
    ("capaboost", {"r": 3, "K": 3}),
    ("soda", {"r": 3, "p": 4}),
    ("compacter", {"n": 4, "r": 8}),
]

TOLERANCE = 1e-10


def close(got: Tensor, want: Tensor, tolerance: float = TOLERANCE) -> None:
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max().clamp(min=1e-3)


def gradients(output: Tensor, site: Projection) -> dict[str, Tensor]:
    leaves = {n: p for n, p in site.params.items() if p.requires_grad}
    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    found = torch.autograd.grad((output * weights).sum(), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def _name(value: Any) -> str:
    return value if isinstance(value, str) else "-".join(f"{k}{v}" for k, v in value.items())


@pytest.mark.parametrize(("name", "args"), CASES, ids=_name)
def test_equals_its_reference(name: str, args: Args) -> None:
    site = one_site(name, **args)
    ours, theirs = site.ours(), site.theirs(name)
    close(ours, theirs)
    assert not torch.allclose(ours, site.values["h"]), "nothing changed"
    wanted = gradients(theirs, site)
    for key, gradient in gradients(ours, site).items():
        assert wanted[key].any(), key
        close(gradient, wanted[key])


Copy = Callable[[Any, Projection], None]
"""Puts our tensors into the module that PEFT made."""

R = 4


def _c3a(module: Any, site: Projection) -> None:
    module.c3a_kernel["default"].copy_(site.params["w"].transpose(0, 1))


def _hra(module: Any, site: Projection) -> None:
    module.hra_u["default"].copy_(site.params["U"].T)


def _miss(module: Any, site: Projection) -> None:
    module.miss_block["default"].copy_(site.params["D"].T)


def _randlora(module: Any, site: Projection) -> None:
    """PEFT pairs column ``p`` of B, counted by basis, with row ``p`` of A, counted by rank."""
    params = site.params
    bases, rank = params["lambda"].shape
    module.randlora_A["default"] = params["A"].unsqueeze(1).float()
    columns = params["B"].unflatten(1, [bases, rank]).transpose(1, 2).flatten(1)
    module.randlora_B["default"] = columns.unflatten(1, [bases, rank]).float()
    module.randlora_lambda["default"].copy_(params["lambda"].T)
    module.randlora_gamma["default"].copy_(params["gamma"])


def _gralora(module: Any, site: Projection) -> None:
    """PEFT counts the rows of A by output block, and then within it."""
    rows = site.params["A"].transpose(1, 2).flatten(1, 2)
    module.gralora_A["default"].copy_(rows.transpose(1, 2))
    module.gralora_B["default"].copy_(site.params["B"].transpose(1, 2))


def _hira(module: Any, site: Projection) -> None:
    module.hira_A["default"].copy_(site.params["A"])
    module.hira_B["default"].copy_(site.params["B"])


def _road(module: Any, site: Projection) -> None:
    module.road_theta["default"].copy_(site.params["theta"].flatten())
    module.road_alpha["default"].copy_(site.params["alpha"].flatten())


def _vb_lora(module: Any, site: Projection) -> None:
    """PEFT cuts the rows of B, before its ranks, into pieces."""
    module.vblora_vector_bank["default"].copy_(site.params["V"])
    module.vblora_logits_A["default"].copy_(site.params["L_A"])
    module.vblora_logits_B["default"].copy_(site.params["L_B"].transpose(0, 1))


def _lora(module: Any, site: Projection) -> None:
    """Our base keeps its weight; PEFT takes off what its matrices start with."""
    site.params |= {
        "A_0": module.lora_A["default"].weight.double(),
        "B_0": module.lora_B["default"].weight.double(),
    }
    module.lora_A["default"].weight.copy_(site.params["A"])
    module.lora_B["default"].weight.copy_(site.params["B"])


def _low_rank(start: str) -> Any:
    return peft.LoraConfig(target_modules=["only"], r=R, lora_alpha=8, init_lora_weights=start)


LIBRARY: dict[str, tuple[Args, Callable[[], Any], Copy]] = {
    "c3a": ({"b": 8}, lambda: peft.C3AConfig(target_modules=["only"], block_size=8), _c3a),
    "hra": ({"r": R}, lambda: peft.HRAConfig(target_modules=["only"], r=R), _hra),
    "miss": ({"r": R}, lambda: peft.MissConfig(target_modules=["only"], r=R), _miss),
    "randlora": (
        {"r": R, "alpha": 8.0},
        lambda: peft.RandLoraConfig(target_modules=["only"], r=R, randlora_alpha=8),
        _randlora,
    ),
    "hira": ({"r": R}, lambda: peft.HiraConfig(target_modules=["only"], r=R), _hira),
    "gralora": (
        {"r": 8, "k": 4, "alpha": 6.0},
        lambda: peft.GraloraConfig(target_modules=["only"], r=8, gralora_k=4, alpha=6),
        _gralora,
    ),
    "road": ({"g": 8}, lambda: peft.RoadConfig(target_modules=["only"], group_size=8), _road),
    "vb_lora": (
        {"r": R, "n": 10, "b": 8, "k": 3},
        lambda: peft.VBLoRAConfig(
            target_modules=["only"], r=R, num_vectors=10, vector_length=8, topk=3
        ),
        _vb_lora,
    ),
    "pissa": ({"r": R, "alpha": 8.0}, lambda: _low_rank("pissa"), _lora),
    "olora": ({"r": R, "alpha": 8.0}, lambda: _low_rank("olora"), _lora),
}


class Holder(nn.Module):
    """A model of one projection."""

    def __init__(self, site: Projection) -> None:
        super().__init__()
        self.only = nn.Linear(site.place.sizes["d_x"], site.place.sizes["d_h"])
        with torch.no_grad():
            self.only.weight.copy_(site.values["W"])
            self.only.bias.copy_(site.values["b"])

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.only(x)
        return found


@pytest.mark.parametrize("name", LIBRARY)
def test_equals_the_library(name: str) -> None:
    args, config, copy = LIBRARY[name]
    site = one_site(name, d_x=16, d_h=24, **args)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wrapped: Any = peft.get_peft_model(Holder(site), config())  # type: ignore[arg-type]
        copy(wrapped.base_model.model.only, site)
        theirs = wrapped(site.values["x"].float())
    close(site.ours().detach().float(), theirs, 1e-5)

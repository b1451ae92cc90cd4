"""A weight that is made of others after a model was adapted is still the one that methods read."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import peftlang
from tests.architectures.by_hand import distance
from tests.runtime.layered import Stack, example, stack

CLOSE = 2e-5
PLACE = "layers.1.first"
Way = Callable[[nn.Module], Any]
TRAINED = f'adapter one {{ train "{PLACE}.weight" }}'


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def weight_norm(module: nn.Module) -> None:
    parametrizations.weight_norm(module)
    module.parametrizations.weight.original0.data.mul_(3)  # type: ignore[union-attr]


def old_weight_norm(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(module)
    module.weight_g.data.mul_(3)  # type: ignore[operator, union-attr]


def doubled(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", Doubled())


def doubled_twice(module: nn.Module) -> None:
    doubled(module)
    doubled(module)


def doubled_for_a_while(module: nn.Module) -> None:
    doubled(module)
    parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def doubled_for_good(module: nn.Module) -> None:
    doubled(module)
    parametrize.remove_parametrizations(module, "weight")


def pruned(module: nn.Module) -> None:
    weight = module.get_parameter("weight")
    mask = torch.arange(weight.numel()).reshape(weight.shape) % 3 > 0
    prune.custom_from_mask(module, "weight", mask)


WAYS = [
    weight_norm,
    old_weight_norm,
    doubled,
    doubled_twice,
    doubled_for_a_while,
    doubled_for_good,
    pruned,
]


def moved(model: nn.Module) -> Stack:
    """The adapter's tensors, moved from where they start."""
    generator = torch.Generator().manual_seed(9)
    for value in peftlang.adapters(model)["default"].parameters().values():
        value.data += 0.1 * torch.randn(value.shape, generator=generator)
    return model  # type: ignore[return-value]


def dora() -> Stack:
    return moved(peftlang.compile(stack(), "dora", at="linear", args={"r": 2}))


def dora_by_hand(model: Stack, plain: Stack) -> Stack:
    """A stack whose weights are those of the paper's equation 5."""
    view = peftlang.adapters(model)["default"]
    (placement,) = view.plan.placements
    tensors, reference = view.parameters(), stack()
    for site in view.sites:
        groups = placement.tensors[site.id]
        a, b, m = (tensors[groups[name]] for name in ("A", "B", "m"))
        module = plain.get_submodule(site.path)
        v = module.weight + 8 * b @ a  # type: ignore[operator]
        value = (m / v.norm(dim=1))[:, None] * v
        linear = nn.Linear(v.shape[1], v.shape[0])
        linear.load_state_dict({"weight": value, "bias": module.bias})
        owner, _, leaf = site.path.rpartition(".")
        setattr(reference.get_submodule(owner), leaf, linear)
    return reference


@pytest.mark.parametrize("way", WAYS)
def test_a_method_reads_the_weight_that_the_module_has_now(way: Way) -> None:
    model, plain = dora(), stack()
    before = model(example())
    for one in (model, plain):
        way(one.get_submodule(PLACE))
        one(example())  # What is made by hooks is made at a call.
    reference = dora_by_hand(model, plain)
    assert distance(model(example()), reference(example())) < CLOSE
    if way is not doubled_for_a_while:
        assert distance(before, model(example())) > 100 * CLOSE
    with peftlang.disabled(model):
        assert distance(model(example()), plain(example())) < CLOSE


@pytest.mark.parametrize("way", [weight_norm, doubled])
def test_what_is_compiled_reads_it_too(way: Way) -> None:
    model = dora()
    way(model.get_submodule(PLACE))
    expected = copy.deepcopy(model)(example())
    assert distance(torch.compile(model, backend="eager")(example()), expected) < CLOSE


@pytest.mark.parametrize("way", WAYS)
def test_a_trained_copy_stays_in_the_place_of_the_weight(way: Way) -> None:
    model = moved(peftlang.compile(stack(), TRAINED))
    reference = stack()
    (trained,) = peftlang.adapters(model)["default"].parameters().values()
    reference.get_submodule(PLACE).weight.data.copy_(trained)  # type: ignore[union-attr, operator]
    way(model.get_submodule(PLACE))
    found = model(example())
    assert distance(found, reference(example())) < CLOSE
    found.square().mean().backward()
    assert trained.grad is not None
    assert trained.grad.any()

"""Merged equals un-merged on every preset, for every spec that says that it merges.

Each alone and then before a second adapter, in float32, and each in bfloat16. What one preset has
for all its specs is made once: the model that is adapted, whose recordings take any adapter, and
the plain one, to which the merged weights are given. What `merge` and `unmerge` do to a model
itself is tested with one pair on each preset.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import peftlang
from peftlang.merging import folded_weights
from peftlang.models import PRESETS, build, example_inputs
from peftlang.passes.fold import Folded
from peftlang.verifying.adapted_model import output_of, varied
from tests.adapting import NAME
from tests.adapting import adapted as adapted_base
from tests.methods.harness import randomise, spec
from tests.methods.library_specs import library, promises, small_arguments

MERGEABLE = [path for path in library() if promises(path, "mergeable")]
SECOND = "second"
HALF = 2.0**-8
"""Half the distance of neighbouring bfloat16 numbers, relative to the smaller one."""

EXCUSED = ("has no bias", "shared by")
"""What a model may lack: a bias to take a constant, an embedding of its own."""

NOWHERE = {"S402", "S403", "S407", "S408"}
"""A preset without the position, what is read there, or a size that divides."""

each_spec = pytest.mark.parametrize("path", MERGEABLE, ids=lambda path: path.stem)
everywhere = pytest.mark.parametrize("preset", PRESETS)


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return output_of(model(**_inputs(model)))


def _inputs(model: nn.Module) -> dict[str, Any]:
    return varied(example_inputs(model), model)


@cache
def plain(preset: str) -> nn.Module:
    return build(preset).eval()


def with_weights(preset: str, weights: dict[str, Tensor]) -> Tensor:
    """The output of the plain model with other weights."""
    model = plain(preset)
    with torch.no_grad():
        return output_of(functional_call(model, weights, (), _inputs(model)))


@contextmanager
def where_it_fits(preset: str) -> Iterator[None]:
    """Skip what a preset has no place for."""
    try:
        yield
    except peftlang.PeftError as refused:
        if refused.code not in NOWHERE:
            raise
        pytest.skip(f"{preset} has no place for it: {refused.message}")


def adapted(preset: str, path: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The preset with an adapter away from where it starts."""
    with where_it_fits(preset):
        model, adapter = adapted_base(build(preset).to(dtype), path, **small_arguments(path))
    randomise(adapter.parameters(), scale=0.05)
    return model


def with_a_second(preset: str, model: nn.Module) -> nn.Module:
    """The model with (IA)³ after the adapter that it has, where it has the positions."""
    with where_it_fits(preset):
        peftlang.compile(model, spec("ia3"), adapter_name=SECOND)
    randomise(peftlang.adapters(model)[SECOND].parameters(), seed=1, scale=0.1)
    return model


def apart(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


def merging(model: nn.Module) -> Folded:
    """What a merge would store, or a skip that says what the model lacks for it."""
    folded = folded_weights(model)
    for site in folded.refused:
        if any(why in site.reason for why in EXCUSED):
            pytest.skip(f"{site.site.id}: {site.reason}")
        pytest.fail(f"{site.site.id}: {site.reason}")
    return folded


@everywhere
@each_spec
def test_merged_equals_unmerged(path: Path, preset: str) -> None:
    model = adapted(preset, path)
    alone, folded = output(model), merging(model)
    assert apart(alone, output(plain(preset))) > 1e-5
    assert apart(with_weights(preset, folded.parameters), alone) < 1e-5
    both = output(with_a_second(preset, model))
    assert apart(both, alone) > 1e-4
    assert apart(with_weights(preset, merging(model).parameters), both) < 1e-5


@everywhere
@each_spec
def test_bfloat16_costs_the_rounding_of_the_weights(path: Path, preset: str) -> None:
    folded = merging(adapted(preset, path, torch.bfloat16))
    assert folded.rounding.keys() == folded.parameters.keys()
    for name, error in folded.rounding.items():
        assert folded.parameters[name].dtype == torch.bfloat16
        assert error <= HALF * float(folded.parameters[name].abs().max())


@everywhere
def test_a_pair_is_merged_and_unmerged(preset: str) -> None:
    with where_it_fits(preset):
        model = peftlang.compile(build(preset).eval(), spec("dora"), adapter_name=NAME)
    randomise(peftlang.adapters(model)[NAME].parameters(), scale=0.1)
    expected, weights = output(with_a_second(preset, model)), dict(model.named_parameters())
    peftlang.merge(model, keep=True)
    assert model.state_dict().keys() == plain(preset).state_dict().keys()
    assert apart(output(model), expected) < 1e-5
    peftlang.unmerge(model)
    assert torch.equal(output(model), expected)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())

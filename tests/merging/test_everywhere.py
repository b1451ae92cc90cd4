"""Merged equals un-merged on every preset: one adapter and two, in float32 and in bfloat16.

By default each preset has one pair, of which the first changes weights and the second scales
values, and `test_merge.py` has the specs; `PEFTLANG_MERGES=all pytest
tests/merging/test_everywhere.py` takes every spec that says that it is mergeable, alone and in a
pair, in both number types, on every preset.
"""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.merging import last_merge
from peftlang.models import PRESETS, build, example_inputs
from peftlang.verifying.fitted import output_of, varied
from tests.methods.harness import randomise, spec
from tests.methods.library_specs import library, promises, small_arguments

EVERY = os.environ.get("PEFTLANG_MERGES") == "all"
FIRST = [p for p in library() if promises(p, "mergeable")] if EVERY else [spec("dora")]
SECOND = spec("ia3")
ALONE = tuple(PRESETS) if EVERY else ("tiny-gemma2", "tiny-mixtral")
NARROW = tuple(PRESETS) if EVERY else ("tiny-gpt2", "tiny-phi3")
HALF = 2.0**-8
"""Half the distance of neighbouring bfloat16 numbers, relative to the smaller one."""

EXCUSED = ("has no bias", "shared by")
"""What a model may lack: a bias to take a constant, an embedding of its own."""

NOWHERE = {"S402", "S403", "S407", "S408"}
"""A preset without the position, what is read there, or a size that divides."""


def output(model: nn.Module) -> Tensor:
    inputs = varied(example_inputs(model), model)
    with torch.no_grad():
        return output_of(model(**inputs))


def adapted(preset: str, specs: list[Path], dtype: torch.dtype = torch.float32) -> nn.Module:
    """The preset with adapters away from where they start."""
    model = build(preset).to(dtype).eval()
    for seed, path in enumerate(specs):
        peftlang.compile(model, path, adapter_name=path.stem, **small_arguments(path))
        randomise(peftlang.adapters(model)[path.stem].parameters(), seed=seed, scale=0.1)
    return model


def apart(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max())


def merged(model: nn.Module) -> bool:
    """Merge, or say that the model lacks what the change needs."""
    try:
        peftlang.merge(model, keep=True)
    except peftlang.NotMergeable as refused:
        if all(any(why in site.reason for why in EXCUSED) for site in refused.sites):
            return False
        raise
    return True


def fitting(preset: str, specs: list[Path], dtype: torch.dtype = torch.float32) -> nn.Module:
    try:
        return adapted(preset, specs, dtype)
    except peftlang.PeftError as refused:
        if refused.code in NOWHERE:
            pytest.skip(f"{preset} has no place for it: {refused.message}")
        raise


@pytest.mark.parametrize("preset", ALONE)
@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.stem)
def test_merged_equals_unmerged(path: Path, preset: str) -> None:
    model = fitting(preset, [path])
    expected, plain = output(model), output(build(preset))
    assert apart(expected, plain) > 1e-4
    if not merged(model):
        pytest.skip("the model has no bias, or ties the weight")
    assert apart(output(model), expected) < 1e-5
    assert type(peftlang.unmerge(model)) is type(build(preset))
    assert torch.equal(output(model), expected)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.stem)
def test_two_adapters_merge(path: Path, preset: str) -> None:
    pair = [path, SECOND if path != SECOND else spec("dora")]
    model = fitting(preset, pair)
    expected = output(model)
    if not merged(model):
        pytest.skip("the model has no bias, or ties the weight")
    assert apart(output(model), expected) < 1e-5


@pytest.mark.parametrize("preset", NARROW)
@pytest.mark.parametrize("path", FIRST, ids=lambda path: path.stem)
def test_bfloat16_costs_the_rounding_of_the_weights(path: Path, preset: str) -> None:
    model = fitting(preset, [path], torch.bfloat16)
    if not merged(model):
        pytest.skip("the model has no bias, or ties the weight")
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, error in last_merge(model).rounding.items():
        assert error <= HALF * float(weights[name].detach().abs().max())

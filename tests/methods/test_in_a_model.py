"""Every spec computes in a model what its reference says at one site: outputs, and all gradients.

There is no Python here for any one spec. The reference in ``tests/references`` is called at each
site of a plain copy of the model, by hooks on modules that were named by hand; the adapted model is
held to that.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import peftlang
from peftlang.models import build, example_inputs
from peftlang.verifying.adapted_model import varied
from peftlang.verifying.references.python_reference import PythonReference
from tests.adapting import adapted
from tests.methods.harness import randomise
from tests.methods.library_specs import LARGEST, library, small_arguments
from tests.methods.references.anatomy import ANATOMIES
from tests.methods.references.in_place import InPlace, gradients
from tests.methods.references.weights import relative_error
from tests.methods.test_behaviour import extra_inputs
from tests.oracles.plain import REFERENCES

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

CLOSE = 1e-6
"""Some models compute norms in float32 whatever they are in, and round a last bit away."""
NOWHERE = {"S402", "S403", "S405", "S407", "S408", "S412", "S413", "S415", "S416", "S417"}

WITH_SITES = [
    path for path in library() if PythonReference(REFERENCES / f"{path.stem}.py").has("reference")
]


def with_special_tokens(inputs: dict[str, Any]) -> dict[str, Any]:
    """Some tokens have the id that whole-number arguments are cut to, so that it is chosen."""
    for name, ids in inputs.items():
        if name.endswith("input_ids"):
            ids[0, 2] = ids[1, 1] = LARGEST
    return inputs


def numbers(inputs: dict[str, Any]) -> dict[str, Any]:
    """In float64, where rounding hides nothing; whole numbers and flags as they are."""
    floating = {k for k, v in inputs.items() if isinstance(v, Tensor) and v.is_floating_point()}
    return {k: v.double() if k in floating else v for k, v in inputs.items()}


def longer(inputs: dict[str, Any]) -> dict[str, Any]:
    """Three more tokens: what was recorded for one length is recorded again, for any."""
    ids = {name: value for name, value in inputs.items() if name.endswith("input_ids")}
    return {**inputs, **{n: torch.cat([v, v[:, :3]], dim=1) for n, v in ids.items()}}


@pytest.mark.parametrize("preset", ANATOMIES)
@pytest.mark.parametrize("path", WITH_SITES, ids=lambda path: path.stem)
def test_equals_its_reference_at_every_site(path: Path, preset: str) -> None:
    base = build(preset).double().eval()
    inputs = numbers(with_special_tokens(varied(example_inputs(base), base)))
    try:
        model, adapter = adapted(copy.deepcopy(base), path, **small_arguments(path))
    except peftlang.PeftError as refused:
        if refused.code in NOWHERE:
            pytest.skip(f"{preset} has no place for it: {refused.message}")
        raise
    if any(s.role == "prompt" and s.layer is not None for s in adapter.plan.sites.values()):
        pytest.skip("tests/runtime/test_late_prompts.py runs the layers of a longer sequence")
    randomise(adapter.tensors(), scale=0.1)
    given, tensors = numbers(extra_inputs(adapter)), dict(adapter.tensors())
    there = InPlace(
        copy.deepcopy(base).requires_grad_(False),
        ANATOMIES[preset],
        adapter.plan,
        PythonReference(REFERENCES / f"{path.stem}.py"),
        tensors,
        given,
    )
    for call in (inputs, longer(inputs)):
        with torch.no_grad():
            plain = base(**call).logits
        output = model(**call, **given).logits
        _compare(plain, output, gradients(output, tensors), *there.run(call))


def _compare(
    plain: Tensor, output: Tensor, got: dict[str, Tensor], wanted: Tensor, slopes: dict[str, Tensor]
) -> None:
    assert relative_error(plain, wanted) > 1e-6, "the reference changes nothing"
    assert relative_error(output.detach(), wanted) < CLOSE
    largest = max((float(slope.abs().max()) for slope in slopes.values()), default=0.0)
    assert got.keys() == slopes.keys()
    for name, slope in slopes.items():
        error = float((got[name] - slope).abs().max())
        assert error <= CLOSE * max(float(slope.abs().max()), 0.01 * largest), name

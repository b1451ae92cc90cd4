"""Every method computes what its equation says: outputs, loss, and every gradient.

Two independent oracles: the equations in plain PyTorch on hooks (`references/methods.py`), and HF
PEFT with the same weights where it has the method (`references/library.py`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import adapting
from tests.methods import cases, harness
from tests.methods.harness import Case, Run
from tests.methods.references import library
from tests.methods.references.methods import REFERENCES
from tests.methods.references.weights import relative_error

# Dynamo looks at `.grad` of a graph's inputs after a graph break and hides the warning, which an
# error filter turns into an exception before it can be hidden.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

TOLERANCE = 1e-5
"""Largest difference over largest magnitude, of each tensor, in float32."""


@dataclass
class Adapted:
    """A case's compiled model as it starts; a test that trains it puts it back."""

    case: Case
    model: nn.Module
    adapter: Any
    ran: Run | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return dict(self.adapter.tensors())

    def logits(self) -> Tensor:
        """With gradients on, so that the graph is the one that trains."""
        found: Tensor = self.model(**harness.batch(self.case.preset), **self.case.inputs).logits
        return found.detach()

    def run(self) -> Run:
        """Outputs and gradients with tensors that are nowhere zero."""
        if self.ran is None:
            inputs = harness.batch(self.case.preset) | self.case.inputs
            self.ran = harness.run(self.model, inputs, self.gradients)
        return self.ran

    def gradients(self) -> dict[str, Tensor | None]:
        return {name: t.grad for name, t in self.tensors.items() if t.requires_grad}


@pytest.fixture(scope="module", params=cases.all_cases(), ids=str)
def prepared(request: pytest.FixtureRequest) -> Adapted:
    case: Case = request.param
    base = harness.base(case.preset, case.attention)
    return Adapted(case, *adapting.adapted(base, harness.spec(case.method), **case.args))


@pytest.fixture
def adapted(prepared: Adapted) -> Iterator[Adapted]:
    start = {name: tensor.detach().clone() for name, tensor in prepared.tensors.items()}
    yield prepared
    prepared.model.zero_grad()
    with torch.no_grad():
        for name, tensor in prepared.tensors.items():
            tensor.copy_(start[name])


def _same(ours: Run, theirs: Run) -> None:
    errors = {"logits": relative_error(ours.logits, theirs.logits)}
    errors["loss"] = relative_error(ours.loss, theirs.loss)
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, want in theirs.gradients.items():
        got = ours.gradients[name]
        assert got is not None, f"{name} has no gradient"
        assert want is not None, f"the reference does not use {name}"
        assert want.abs().max() > 0, f"the reference's gradient of {name} is zero"
        errors[name] = relative_error(got, want)
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    assert not wrong, wrong


def _compare_with(adapted: Adapted, oracle: Callable[..., Any]) -> None:
    harness.randomise(adapted.tensors)
    ours, case = adapted.run(), adapted.case
    model, weights = harness.reference_model(case, adapted.adapter, adapted.tensors)
    changed, gradients = oracle(model, case.anatomy, weights, case.args | case.more)
    assert not weights.unused(), "sites that the method should not have"
    _same(ours, harness.run(changed, harness.batch(case.preset), gradients))


def test_starts_exactly_at_the_base(adapted: Adapted) -> None:
    case = adapted.case
    if case.method not in cases.IDENTITIES:
        pytest.skip("starts away from the base, by design")
    # Frozen, as the adapted model's base is: torch chooses an attention kernel by it for T5.
    base = harness.base(case.preset, case.attention).requires_grad_(False)
    assert torch.equal(adapted.logits(), base(**harness.batch(case.preset)).logits)


def test_has_the_sites_and_parameters_of_the_formula(adapted: Adapted) -> None:
    plan = adapted.adapter.plan
    assert sum(len(p.sites) for p in plan.placements) == adapted.case.sites
    if adapted.case.sites:
        assert sum(t.numel() for t in adapted.tensors.values() if t.requires_grad) == (
            adapted.case.count
        )


def test_equals_its_equation(adapted: Adapted) -> None:
    def oracle(model: nn.Module, anatomy: Any, weights: Any, args: dict[str, Any]) -> Any:
        REFERENCES[adapted.case.method](model, anatomy, weights, args)
        return model, weights.gradients

    _compare_with(adapted, oracle)


def test_equals_the_library(adapted: Adapted) -> None:
    oracle = library.of(adapted.case.method, adapted.case.preset)
    if oracle is None or adapted.case.attention == "eager":
        pytest.skip("the library does not have it, or not in this form")
    _compare_with(adapted, oracle)


def test_keeps_the_shape_of_the_output(adapted: Adapted) -> None:
    base = harness.base(adapted.case.preset)(**harness.batch(adapted.case.preset))
    assert adapted.logits().shape == base.logits.shape


def test_every_spec_has_a_reference() -> None:
    alone = {path.stem for path in (harness.SPECS.parent / "tests" / "references").glob("*.py")}
    assert {path.stem for path in harness.SPECS.glob("*.peft")} <= set(REFERENCES) | alone
    assert {case.method for case in cases.all_cases()} == set(REFERENCES)


def test_a_penalty_joins_the_loss_in_training() -> None:
    model, adapter = harness.compiled("tiny-llama", "diff_pruning", {"beta": 1e-3})
    inputs = harness.batch("tiny-llama")
    plain = harness.base("tiny-llama")(**inputs).loss
    gates = [t for name, t in adapter.tensors().items() if name.endswith("log_alpha")]
    open_gates = sum(torch.sigmoid(t - 2 / 3 * math.log(0.1 / 1.1)).sum() for t in gates)
    torch.testing.assert_close(model(**inputs).loss, plain)
    torch.testing.assert_close(model.train()(**inputs).loss, plain + 1e-3 * open_gates)

"""What runs the passes: who sees them, and which are left out, for each adapter of a model."""

from typing import Any

import pytest
import torch

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build, example_inputs
from peftlang.pipeline import GRAPH, OPTIONAL, PASSES, PLAN


class Seen:
    """An observer that keeps which passes it saw."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []

    def __call__(self, when: str, step: str, _subject: Any) -> None:
        self.steps.append((when, step))

    @property
    def names(self) -> set[str]:
        return {step for _, step in self.steps}


def run(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**example_inputs(model))
    return found


def test_passes_are_functions_named_as_their_files() -> None:
    for step in (*PLAN, *GRAPH):
        assert step.__module__ == f"peftlang.passes.{step.__name__}"
    assert set(PASSES) >= OPTIONAL


def test_each_pass_is_seen_before_and_after() -> None:
    seen = Seen()
    run(peftlang.compile(build("tiny-mlp"), "lora", at="attn.q in layers[0]", observe=seen))
    assert seen.steps == [(when, step) for step in PASSES for when in ("before", "after")]


def test_a_second_adapter_is_seen_by_its_own_observer() -> None:
    """The first one's observer sees what both are written into, as it acts there too."""
    first, second = Seen(), Seen()
    model = peftlang.compile(build("tiny-mlp"), "lora", at="attn.q in layers[0]", observe=first)
    run(model)
    first.steps.clear()
    peftlang.compile(model, "lora", at="attn.v", adapter_name="b", observe=second)
    run(model)
    assert "insert" in second.names
    assert "resolve" in second.names
    assert "resolve" not in first.names
    assert "roles" not in second.names, "the model's sites are known"


def test_an_adapter_that_is_compiled_anew_has_a_new_observer() -> None:
    first = Seen()
    model = peftlang.compile(build("tiny-mlp"), "lora", observe=first)
    peftlang.remove(model, "default")
    first.steps.clear()
    peftlang.compile(model, "lora")
    run(model)
    assert first.steps == []


def test_a_second_adapter_may_be_without_a_pass() -> None:
    first, second = Seen(), Seen()
    model = peftlang.compile(build("tiny-mlp"), "lora", observe=first)
    run(model)
    assert "simplify" in first.names
    options: Any = {"without": ["simplify"], "observe": second}
    peftlang.compile(model, "lora", adapter_name="b", **options)
    run(model)
    assert "insert" in second.names
    assert "simplify" not in second.names
    second.steps.clear()
    with peftlang.active(model, "default"):
        run(model)
    assert second.steps == []


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (["insert"], "the pass `insert` cannot be left out"),
        (["simplify", "regions"], "the pass `regions` cannot be left out"),
        (["simplfy"], "there is no pass `simplfy`"),
        ("simplify", "not a list"),
    ],
)
def test_what_is_needed_cannot_be_left_out(without: Any, said: str) -> None:
    model = build("tiny-mlp")
    with pytest.raises(PeftError, match=said) as caught:
        peftlang.compile(model, "lora", without=without)
    assert caught.value.code == "R524"
    assert not hasattr(model, "_peftlang")

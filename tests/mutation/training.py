"""Specs that train the base's own parameters: which ones, on a small real model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch import nn

from peftlang.diagnostics import PeftError
from peftlang.ir.method import Adapter
from peftlang.lower import build, load
from peftlang.models import build as build_model
from peftlang.pipeline import Survey, plan, survey
from tests.oracles.plain import file_of


@cache
def surveyed() -> tuple[nn.Module, Survey]:
    """An encoder-decoder with biases in projections and norms, and its sites."""
    model = build_model("tiny-bart")
    return model, survey(model)


def trained_otherwise(adapter: Adapter, trained: Callable[[nn.Module], set[str]]) -> str | None:
    """How many of the base's parameters are wrong; None where they are those of a reference.

    Raises:
        PeftError: the adapter does not suit the model.
    """
    model, found = surveyed()
    wrong = set(plan(adapter, model, found).train) ^ trained(model)
    return f"trains {len(wrong)} parameters too many or too few" if wrong else None


@dataclass(frozen=True)
class TrainingCase:
    """A spec of `train` clauses, judged by `trained(model)` of its reference."""

    path: Path

    def verdict(self, text: str) -> str | None:
        """Which parameters are wrong; None where they are those of the reference."""
        try:
            return trained_otherwise(build(load(text)), file_of(self.path.stem)["trained"])
        except PeftError as refused:
            return str(refused).splitlines()[0]

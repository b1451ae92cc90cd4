"""Specs that train the base's own parameters: which ones, on a small real model."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from peftlang.diagnostics import PeftError
from peftlang.lower import build, load
from peftlang.models import build as build_model
from peftlang.pipeline import Survey, plan, survey
from tests.oracles.plain import file_of


@cache
def surveyed() -> tuple[nn.Module, Survey]:
    """An encoder-decoder with biases in projections and norms, and its sites."""
    model = build_model("tiny-bart")
    return model, survey(model)


@dataclass(frozen=True)
class TrainingCase:
    """A spec of `train` clauses, judged by `trained(model)` of its reference."""

    path: Path

    def verdict(self, text: str) -> str | None:
        """Which parameters are wrong; None where they are those of the reference."""
        model, found = surveyed()
        try:
            adapter = build(load(text))
            got: set[str] = set(plan(adapter, model, found).train)
        except PeftError as refused:
            return str(refused).splitlines()[0]
        trained: Any = file_of(self.path.stem)["trained"]
        wrong = got ^ trained(model)
        return f"trains {len(wrong)} parameters too many or too few" if wrong else None

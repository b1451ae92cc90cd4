"""Models of one config have the same positions: where these are not what is tested, find them once.

A folder of tests whose `conftest.py` imports `surveys_kept` spends half the time on compiling.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from torch import nn

import peftlang.merging
import peftlang.pipeline
from peftlang.capture import is_adapters
from peftlang.pipeline import survey
from peftlang.sites.survey import Survey

_KEPT: dict[tuple[str, ...], Survey] = {}


def _kept(
    model: nn.Module, example_inputs: Mapping[str, Any] | None = None, _observe: Any = None
) -> Survey:
    config = getattr(model, "config", None)
    if not hasattr(config, "to_json_string"):
        return survey(model, example_inputs)
    attention = str(getattr(config, "_attn_implementation", ""))
    own = ((n, m) for n, m in model.named_modules() if not is_adapters(n))
    names = ",".join(f"{name}:{module.training:d}" for name, module in own)
    shapes = [(n, getattr(v, "shape", v)) for n, v in sorted((example_inputs or {}).items())]
    key = (type(model).__qualname__, config.to_json_string(), attention, names, str(shapes))
    if key not in _KEPT:
        _KEPT[key] = survey(model, example_inputs)
    return _KEPT[key]


@pytest.fixture(scope="module", autouse=True)
def surveys_kept() -> Iterator[None]:
    """Within one module of tests, each kind of model is surveyed once in a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peftlang.pipeline, "survey", _kept)
        patch.setattr(peftlang.merging, "survey", _kept)
        yield

"""Experts of Hugging Face models: which of its implementations runs while a model is recorded.

`transformers` runs a mixture's experts as a Python loop over those that tokens were given to
("eager"), or all of them as a few products. TorchDynamo leaves such a loop to plain Python, and
no graph has the experts' weights in it; the products it records. They compute the same.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_LOOPS = (None, "eager")
_AT_ONCE = "grouped_mm"


def experts_of(model: nn.Module) -> list[Any]:
    """The configurations that say how the experts of a model run."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = module.__dict__.get("config")
        chooses = "is_transposed" in module.__dict__ and "has_gate" in module.__dict__
        if chooses and hasattr(config, "_experts_implementation"):
            found[id(config)] = config
    return list(found.values())


@contextmanager
def at_once(configs: Iterable[Any], *, loops_only: bool) -> Iterator[None]:
    """Let experts run as products inside.

    Args:
        configs: From `experts_of`.
        loops_only: Whether experts that run as products of another kind go on to do so.
    """
    before = [(config, config._experts_implementation) for config in configs]
    changed = [(c, own) for c, own in before if own in _LOOPS or not loops_only]
    for config, _ in changed:
        _choose(config, _AT_ONCE)
    try:
        yield
    finally:
        for config, own in changed:
            _choose(config, own)


def _choose(config: Any, implementation: str | None) -> None:
    # The empty key is the configuration itself, without those inside it.
    config._experts_implementation = {"": implementation}

"""Models that keep what Dynamo recorded of them while one adapter after another is put on them.

A recording of a tiny model takes a second and the rest of a test a few hundredths of one. A
recording does not depend on the adapters, so tests of many adapters share it; that it may be
shared is tested in `tests/runtime/test_reuse.py`.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

import peftlang

KEEPER, NAME = "keeper", "default"
EVERYWHERE = """
method everywhere {
    position    linear, norm, embed
    composition h = 1 * h
}
"""
"""Acts on nothing, and makes every module a door: no adapter brings one that is new."""

_KEPT: dict[Hashable, nn.Module] = {}


def borrowed(
    key: Hashable, make: Callable[[], nn.Module], spec: Any, **options: Any
) -> tuple[nn.Module, Any]:
    """The model of that key with one acting adapter, and the adapter, until it is borrowed again.

    Whoever borrows the model leaves the base's tensors unchanged.
    """
    if key not in _KEPT:
        _KEPT[key] = peftlang.compile(make().eval(), EVERYWHERE, adapter_name=KEEPER)
    model = _KEPT[key].eval()
    for name in set(peftlang.adapters(model)) - {KEEPER}:
        peftlang.remove(model, name)
    peftlang.set_active(model)
    peftlang.compile(model, spec, adapter_name=NAME, **options)
    return model, peftlang.adapters(model)[NAME]


@contextmanager
def lent(
    key: Hashable, make: Callable[[], nn.Module], spec: Any, **options: Any
) -> Iterator[tuple[nn.Module, Any]]:
    """As ``borrowed``, and the adapter is taken off at the end."""
    model, adapter = borrowed(key, make, spec, **options)
    try:
        yield model, adapter
    finally:
        model.eval()
        peftlang.remove(model, NAME)

"""The tensors that go into a module's call and come out of it, and the place of each."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from peftlang.capture.facts import Place


def items_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a mapping, list or tuple holds, by key or number; nothing for another value."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def tensors_in(value: Any, place: Place) -> Iterator[tuple[Place, Tensor]]:
    """The tensors in a value, nested ones too, each with its place below ``place``."""
    if isinstance(value, Tensor):
        yield place, value
    for key, item in items_of(value):
        inner = Place(place.name, place.position, (*place.path, key))
        yield from tensors_in(item, inner)


def arguments_of(module: nn.Module, args: Any, kwargs: Any) -> Iterator[tuple[Place, Tensor]]:
    """The tensors among a call's arguments, each with its place by name and by number."""
    names = _positional_names(type(module).forward)
    for index, value in enumerate(args):
        name = names[index] if index < len(names) else None
        yield from tensors_in(value, Place(name, index))
    for name, value in kwargs.items():
        position = names.index(name) if name in names else None
        yield from tensors_in(value, Place(name, position))


def _positional_names(forward: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a module's forward takes by place, ``self`` left out."""
    try:
        found = list(inspect.signature(forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return []
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in found if p.kind in by_place]

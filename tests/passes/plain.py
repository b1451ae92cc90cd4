"""Plain PyTorch with which references change a model: hooks, and nothing of peftlang's."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def after(model: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change what a module gives; of a tuple its first part."""

    def hook(_module: nn.Module, _args: Any, result: Any) -> Any:
        if isinstance(result, tuple):
            return (change(result[0]), *result[1:])
        return change(result)

    model.get_submodule(path).register_forward_hook(hook)


def before(model: nn.Module, path: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change what a module is given first."""

    def hook(_module: nn.Module, args: Any) -> Any:
        return (change(args[0]), *args[1:])

    model.get_submodule(path).register_forward_pre_hook(hook)


def beside(model: nn.Module, path: str, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Change what a module gives by what it was given."""

    def hook(_module: nn.Module, args: Any, result: Any) -> Any:
        return change(args[0], result)

    model.get_submodule(path).register_forward_hook(hook)


def output(result: Any) -> Tensor:
    """What a model gives first: logits, or the one tensor."""
    found = result if isinstance(result, Tensor) else result[0]
    assert isinstance(found, Tensor)
    return found

"""Doors: the modules through which a call can reach a site, and what happens at each.

Every module on the way from the root to a site is a door, because ``forward`` of the root is not
the only way in: ``generate`` calls an encoder by itself, a trainer may call the model without its
head, a user one layer. A door's ``forward`` has three cases.

- Called in plain Python: it runs its own compiled function, whose backend inserts the adapters.
- Traced by that function, or by an outer door's: it is the module's own ``forward``, so that one
  call of the root is one graph. Its path and mode are read, which makes Dynamo guard on them: a
  graph recorded for one layer is never used for another.
- Traced by somebody else's ``torch.compile``: it is left to Python, and the first case applies.

What is compiled raises when it finds itself in plain Python: the compiler gave up, and going on
would run the base without its adapter.
"""

import functools
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftlang.capture import compile_function, only_inlined
from peftlang.diagnostics import PeftError
from peftlang.runtime.rooms import admitted

if TYPE_CHECKING:
    from peftlang.runtime.adapted import Adapted

DOOR = "_peftlang_door"


class Door:
    """The state of one door.

    Attributes:
        adapted: The model's adapters.
        path: Module path in the root.
        original: The module's forward before it was a door: a function of the module.
    """

    def __init__(self, adapted: "Adapted", path: str, original: Callable[..., Any]) -> None:
        self.adapted, self.path, self.original = adapted, path, original
        self._compiled: Callable[..., Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Door":
        import copy

        return Door(copy.deepcopy(self.adapted, memo), self.path, self.original)

    @property
    def compiled(self) -> Callable[..., Any]:
        if self._compiled is None:
            self._compiled = compile_function(_body(self), self.adapted.backend)
        return self._compiled

    def forget(self) -> None:
        """Drop what was compiled; the next call compiles anew."""
        self._compiled = None


def open_door(module: nn.Module, adapted: "Adapted", path: str) -> bool:
    """Make ``module`` a door, and say whether it was none before."""
    if DOOR in module.__dict__:
        return False
    instance = module.__dict__.get("forward")
    original = type(module).forward if instance is None else _of_instance(instance)
    module.__dict__[DOOR] = Door(adapted, path, original)
    module.__dict__["forward"] = types.MethodType(_forward_of(original), module)
    return True


def close_door(module: nn.Module) -> None:
    """Give ``module`` its own forward back."""
    door = module.__dict__.pop(DOOR, None)
    if door is not None:
        del module.__dict__["forward"]
        kept = getattr(door.original, "peftlang_instance", None)
        if kept is not None:
            module.__dict__["forward"] = kept


def _of_instance(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that was set on the instance, as a function of the module."""

    @functools.wraps(forward)
    def call(_module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    call.peftlang_instance = forward  # type: ignore[attr-defined]
    return call


@functools.cache
def _forward_of(original: Callable[..., Any]) -> types.FunctionType:
    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        door: Any = self._peftlang_door
        if torch.compiler.is_compiling() and door.adapted.inside:
            _identify(door, self)
            return _recorded(door, original, self, args, kwargs)
        return _enter(self, *args, **kwargs)

    function: Any = forward
    return function  # type: ignore[no-any-return]


def _identify(door: Any, module: Any) -> None:
    """Read what tells this door from others, so that Dynamo guards on it."""
    if door.path == "?" or module.training is None or door.adapted.guarded == "?":
        raise AssertionError("no door has this name")


@only_inlined
def _recorded(
    door: Any, original: Callable[..., Any], module: Any, args: Any, kwargs: dict[str, Any]
) -> Any:
    """A door's own forward, around which a layer may take soft tokens in, or let them go."""
    if door.path not in door.adapted.rooms:
        return _watched(original, module, *args, **kwargs)
    run = functools.partial(_watched, original)
    return admitted(door.adapted, door.path, run, module, args, kwargs)


@only_inlined
def _watched(original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A door's own forward; in plain Python, when torch could not record it whole.

    The parts that torch records run with the adapters, and a part that it leaves to Python
    without: a site that ran in no recorded part was missed.
    """
    if torch.compiler.is_compiling():
        return original(module, *args, **kwargs)
    before = _runs(module)
    result = original(module, *args, **kwargs)
    _check_runs(module, before)
    return result


@torch.compiler.disable
def _runs(module: nn.Module) -> dict[str, int]:
    door: Door = module.__dict__[DOOR]
    return {name: door.adapted.backend.runs(name) for name in door.adapted.owned_by(door.path)}


@torch.compiler.disable
def _check_runs(module: nn.Module, before: dict[str, int]) -> None:
    door: Door = module.__dict__[DOOR]
    for name, count in before.items():
        if door.adapted.backend.runs(name) == count:
            raise left_to_python(door.path, name)


@torch.compiler.disable(
    reason="a model adapted by peftlang compiles itself: leave out fullgraph=True, or leave out "
    "this torch.compile and choose peftlang.compile(..., backend='inductor')"
)
def _enter(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A call from plain Python."""
    door: Door = module.__dict__[DOOR]
    adapted = door.adapted
    if not adapted.switched_on:
        return door.original(module, *args, **kwargs)
    return adapted.run(door, module, args, kwargs)


def _body(door: Door) -> Callable[..., Any]:
    """What is compiled for a door: code of its own, so that no other door's graphs apply."""
    path, original = door.path, door.original

    def body(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            raise not_compiled(path)
        _identify(module._peftlang_door, module)
        return _recorded(module._peftlang_door, original, module, args, kwargs)

    code = body.__code__.replace(co_name=f"peftlang_door_{path.replace('.', '_') or 'root'}")
    return types.FunctionType(code, body.__globals__, code.co_name, None, body.__closure__)


def not_compiled(path: str) -> PeftError:
    """The error for a call that torch's compiler left to plain Python."""
    where = f"`{path}`" if path else "the model"
    return PeftError(
        f"torch did not compile this call of {where}, so its adapter would not have acted",
        code="R501",
        help="unset TORCHDYNAMO_DISABLE and torch._dynamo.config.disable; if neither is set, run "
        "with TORCH_LOGS=recompiles,graph_breaks to see why. For the base without its adapter, "
        "use `with peftlang.disabled(model):`",
    )


def left_to_python(path: str, site: str) -> PeftError:
    """The error for a forward of which torch's compiler left an adapted part to plain Python."""
    where = f"`{path}`" if path else "the model"
    return PeftError(
        f"torch left a part of the forward of {where} to plain Python, and {site} is not in the "
        "parts that it compiled, so its adapter did not act",
        code="R501",
        help="TORCH_LOGS=graph_breaks shows what stopped it: often a loop or branch that reads a "
        "tensor's value; move it out of the module that owns the weight, then call "
        "torch.compiler.reset()",
    )

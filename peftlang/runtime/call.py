"""What belongs to one call of an adapted model, and which adapters act in it.

A call begins where an adapted model is entered from outside and ends where that returns. What it
has (the caller's inputs, facts about its tokens, values on their way between sites, penalties) is
held by one object, which the modules inside find: every thread has its own. (A forward does not
wait for anything, so that asynchronous tasks cannot mix theirs.)

Which adapters act, a thread or task may say for a while; that is a context variable. TorchDynamo
traces none, so what it traces looks at a thread's own list instead. (Of thread-local objects it
follows what hangs on them, but not what is put on them before a graph break: hence lists of one.)

Gradient checkpointing runs a layer once more in the backward pass, when the call is long over, and
perhaps in another thread. The layer reads the very tensor that it read before, so the call is found
by where that tensor lies in memory; it lives as long as the gradient's graph does.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from peftlang.capture.undisturbed import has_values
from peftlang.diagnostics import PeftError

if TYPE_CHECKING:
    from peftlang.runtime.acting import Acting


class Call:
    """One call of an adapted model.

    Attributes:
        owner: The model's registry.
        acting: The adapters that act in it.
        begun: What there was, and whether gradients were recorded, when modules began that will run
            again; by module, and by where their input lies.
        outer: The call of another adapted model around it.
        inputs: What the caller supplied, by the input's name.
        given: Facts about the call, by the names of their slots.
        key: Which facts there are.
        values: What modules and sites have made for others, by the names of their slots.
        weights: Weights read in the place of a module's own while it runs, by module and name.
        frames: For each module under way that holds others: those that ran.
        running: Modules whose forward is under way.
        used: Modules whose forward ran, or whose weights somebody else computed with.
        gradient: Whether gradients were recorded when it began.
    """

    __slots__ = (
        "__weakref__",
        "acting",
        "begun",
        "frames",
        "given",
        "gradient",
        "inputs",
        "key",
        "outer",
        "owner",
        "running",
        "terms",
        "used",
        "values",
        "weights",
    )

    def __init__(self, owner: Any, acting: Acting, outer: Call | None) -> None:
        self.owner, self.acting, self.outer = owner, acting, outer
        self.inputs: dict[str, Tensor] = {}
        self.given: dict[str, Tensor] = {}
        self.key = ""
        self.values: dict[str, Any] = {}
        self.terms: dict[str, Tensor] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.frames: list[set[str]] = []
        self.used: set[str] = set()
        self.running: set[str] = set()
        self.gradient = torch.is_grad_enabled()
        self.begun: dict[tuple[str, int], tuple[dict[str, Any], bool]] = {}

    def give(self, facts: Mapping[str, Tensor]) -> None:
        """Say more about the call."""
        self.given.update(facts)
        self.key = "|".join(sorted(self.given))


class _Local(threading.local):
    """What one thread has."""

    def __init__(self) -> None:
        self.call: list[Call | None] = [None]
        self.scopes: list[tuple[Any, tuple[str, ...]]] = []
        self.inputs: list[tuple[Any, dict[str, Tensor]]] = []
        self.recorded = 0


_LOCAL = _Local()


@contextmanager
def recorded() -> Iterator[None]:
    """What this thread computes inside the ``with`` block is recorded, operation by operation."""
    _LOCAL.recorded += 1
    try:
        yield
    finally:
        _LOCAL.recorded -= 1


def is_read() -> bool:
    """Whether what runs is traced or recorded, so that tensors are to be no others."""
    return torch.compiler.is_compiling() or _LOCAL.recorded > 0


def innermost() -> Call | None:
    """The innermost call of any adapted model, in this thread."""
    return _LOCAL.call[0]


def current(owner: Any) -> Call | None:
    """The call of one adapted model that is under way, in this thread."""
    call = _LOCAL.call[0]
    while call is not None and call.owner is not owner:
        call = call.outer
    return call


class Begun:
    """A call under way inside a ``with`` block."""

    def __init__(self, call: Call) -> None:
        self._call, self._outer = call, _LOCAL.call[0]

    def __enter__(self) -> Call:
        _LOCAL.call[0] = self._call
        return self._call

    def __exit__(self, *_: object) -> None:
        _LOCAL.call[0] = self._outer


# Which adapters act

Scopes = tuple[tuple[Any, tuple[str, ...]], ...]

_SCOPES: ContextVar[Scopes] = ContextVar("peftlang_scopes", default=())


def scope_of(owner: Any) -> tuple[str, ...] | None:
    """The adapters that this thread or task lets act; None for the model's own."""
    found = _LOCAL.scopes if torch.compiler.is_dynamo_compiling() else _SCOPES.get()
    names: tuple[str, ...] | None = None
    for other, chosen in found:
        if other is owner:
            names = chosen
    return names


@contextmanager
def scoped(owner: Any, names: tuple[str, ...]) -> Iterator[None]:
    """Let these adapters act in this thread or task, inside the ``with`` block."""
    entry = owner, names
    token = _SCOPES.set((*_SCOPES.get(), entry))
    _LOCAL.scopes.append(entry)
    try:
        yield
    finally:
        _LOCAL.scopes.remove(entry)
        _SCOPES.reset(token)


Supplied = tuple[tuple[Any, dict[str, Tensor]], ...]

_INPUTS: ContextVar[Supplied] = ContextVar("peftlang_inputs", default=())


def supplied_to(owner: Any) -> dict[str, Tensor]:
    """The inputs that this thread or task supplies to one model."""
    found: dict[str, Tensor] = {}
    for other, values in _LOCAL.inputs if torch.compiler.is_dynamo_compiling() else _INPUTS.get():
        if other is owner:
            found = {**found, **values}
    return found


@contextmanager
def supplied(owner: Any, values: dict[str, Tensor]) -> Iterator[None]:
    """Supply inputs for the calls inside the ``with`` block."""
    entry = owner, values
    token = _INPUTS.set((*_INPUTS.get(), entry))
    _LOCAL.inputs.append(entry)
    try:
        yield
    finally:
        _LOCAL.inputs = [held for held in _LOCAL.inputs if held is not entry]
        _INPUTS.reset(token)


# Layers that run again in the backward pass

_KNOWN: weakref.WeakValueDictionary[tuple[int, str, int], Call] = weakref.WeakValueDictionary()


def in_backward() -> bool:
    """Whether this thread is in a backward pass; what is compiled runs once."""
    # Asked here, and not by who calls: TorchDynamo may compile this function by itself.
    if torch.compiler.is_dynamo_compiling():
        return False
    # The number of the graph task under way: `torch.utils.checkpoint` tells by it, too.
    return torch._C._current_graph_task_id() != -1


def in_checkpoint() -> bool:
    """Whether what runs now will run again in the backward pass."""
    if torch.compiler.is_dynamo_compiling():
        return False
    # The two ways of `torch.utils.checkpoint`: without gradients, or with a hook on what is saved.
    if not torch.is_grad_enabled():
        return True
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def remember(call: Call, path: str, arguments: tuple[Any, ...]) -> None:
    """Let a module that runs again in the backward pass find its call, as it was then."""
    first = _first(arguments)
    if first is not None:
        key = path, first.data_ptr()
        call.begun[key] = dict(call.values), torch.is_grad_enabled()
        _KNOWN[id(call.owner), *key] = call


def recalled(owner: Any, path: str, arguments: tuple[Any, ...]) -> Call | None:
    """The call in which a module ran that runs again now, as it was when the module began.

    Raises:
        PeftError: R525, what passes from layer to layer beside the hidden state has no gradient.
    """
    first = _first(arguments)
    if first is None:
        return None
    key = path, first.data_ptr()
    call = _KNOWN.get((id(owner), *key))
    if call is None:
        return None
    again = Call(owner, call.acting, None)
    values, gradient = call.begun[key]
    again.inputs, again.given, again.key = call.inputs, call.given, call.key
    again.values = dict(values)
    if not gradient and (call.values or call.terms):
        raise _reentrant()
    return again


def _reentrant() -> PeftError:
    return PeftError(
        "layers are checkpointed in a way (`use_reentrant=True`) that keeps gradients from what an "
        "adapter hands from layer to layer, and from its penalties",
        code="R525",
        help="use_reentrant=False; in `transformers`: model.gradient_checkpointing_enable("
        "gradient_checkpointing_kwargs={'use_reentrant': False})",
    )


def keep_with(result: Any, call: Call) -> None:
    """Let a call live as long as the gradient's graph of what it gave."""
    if torch.compiler.is_dynamo_compiling():
        return
    for tensor in torch.utils._pytree.tree_leaves(result):
        if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
            metadata: dict[Any, Any] = tensor.grad_fn.metadata  # type: ignore[assignment]
            metadata.setdefault("peftlang_calls", []).append(call)


def _first(arguments: tuple[Any, ...]) -> Tensor | None:
    found = (a for a in arguments if isinstance(a, Tensor) and a.is_floating_point())
    first = next(found, None)
    return first if first is not None and has_values(first) else None

"""How a model's modules come to run what a method says.

A module that concerns an adapter gets a class of its own, which derives from the class that it had,
is called like it, and whose forward asks the model's registry what runs there. It is not the
instance's forward that is replaced, because:

- what is looked up on the class is found by ``copy``, by unpickling in another process, by
  ``torch.export`` and by TorchDynamo; a bound forward on the instance is unpickled as the class's
  own, without a word;
- a class that is patched later is followed, since ours asks for the next in line at each call;
- hooks, sharding and ``torch.compile`` see a module of the kind that they know.

Where somebody has put a forward on the instance before, it is called in the place of the class's.
One that calls the class's in its turn, by a method bound earlier (`accelerate`, to bring offloaded
weights for the time of a call), goes on doing so: that method is bound anew, so that what we add
runs while the weights are there. Any other is put behind ours.

Parameters in whose place an adapter has others read (a clause on ``W``, ``train``) are properties
of the class, as those of `torch.nn.utils.parametrize` are. Where that puts its own on a class on
top of ours, the two are joined: what the parametrization makes is then the module's own weight.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from peftlang.capture import is_adapters
from peftlang.diagnostics import PeftError
from peftlang.runtime.call import Call, innermost

DISPATCH = "_peftlang_dispatch"
ORIGINAL = "_peftlang_original"
WEIGHTS = "_peftlang_weights"
BEHIND = "_peftlang_behind"
READS = "_peftlang_reads"


class Runs(Protocol):
    """What runs a model's modules."""

    values: Any

    def run(
        self,
        dispatch: Dispatch,
        module: nn.Module,
        own: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """One call of one module; ``own`` is its own forward."""

    def weight(self, call: Call, dispatch: Dispatch, name: str, own: Callable[[], Any]) -> Any:
        """What is read in the place of a module's own parameter; None for that itself."""

    def save(self, folder: str, state: Mapping[str, Tensor] | None) -> None:
        """Write the adapters to a folder, as `save_pretrained` does."""


class Dispatch:
    """What a module knows of the adapters.

    Attributes:
        calls: What runs the model's modules.
        path: The module's, in the model.
        weights: Names of its parameters in whose place others may be read.
        children: Dispatches of modules within, with nothing of ours between.
    """

    def __init__(self, calls: Runs, path: str, weights: Iterable[str]) -> None:
        self.calls, self.path = calls, path
        self.weights = tuple(sorted(weights))
        self.children: tuple[Dispatch, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Dispatch:
        """With the whole model, of the copied model's calls; else still of this one's."""
        calls = self.calls
        if id(calls.values.root) in memo:
            calls = copy.deepcopy(calls, memo)
        twin = Dispatch(calls, self.path, self.weights)
        memo[id(self)] = twin
        twin.children = tuple(copy.deepcopy(child, memo) for child in self.children)
        return twin


def of(module: nn.Module) -> Dispatch | None:
    """A module's dispatch, if it has one, and a class that asks it."""
    found = module.__dict__.get(DISPATCH)
    return found if found is not None and hasattr(type(module), ORIGINAL) else None


def attach(module: nn.Module, dispatch: Dispatch) -> None:
    """Let a module ask what runs there.

    Raises:
        PeftError: R522, it is of a kind whose class cannot be another.
    """
    known = of(module)
    if known is not None:
        detach(module)
    original: Any = type(module)
    below = next((kind for kind in original.__mro__ if ORIGINAL in kind.__dict__), None)
    if below is not None:
        # Sharding has put a class of its own on top of ours.
        _adapt_again(module, below, dispatch)
        return
    try:
        module.__class__ = _derived(original, dispatch.weights)
    except TypeError as error:
        raise PeftError(
            f"`{dispatch.path or 'the model'}` is a {original.__name__}, whose forward is not "
            "Python's, so nothing can be put around it",
            code="R522",
            help="adapt the model before it is scripted or compiled",
        ) from error
    module.__dict__[DISPATCH] = dispatch
    bound = _rebind(module, original.forward, type(module).forward)
    if "forward" in module.__dict__ and not bound:
        module.__dict__[BEHIND] = module.__dict__["forward"]
        module.__dict__["forward"] = types.MethodType(_instead, module)


def _adapt_again(module: nn.Module, below: Any, dispatch: Dispatch) -> None:
    """Let a class of ours, with another on top of it, ask again what runs."""
    for name in dispatch.weights:
        if not isinstance(below.__dict__.get(name), property):
            setattr(below, name, _weight(name))
    setattr(below, WEIGHTS, tuple(sorted({*getattr(below, WEIGHTS), *dispatch.weights})))
    module.__dict__[DISPATCH] = dispatch


def detach(module: nn.Module) -> None:
    """Give a module the class back that it had."""
    kind = type(module)
    original = kind.__dict__.get(ORIGINAL)
    module.__dict__.pop(DISPATCH, None)
    if BEHIND in module.__dict__:
        module.__dict__["forward"] = module.__dict__.pop(BEHIND)
    if original is not None:
        module.__class__ = original
        _rebind(module, kind.forward, original.forward)


def _instead(self: Any, *args: Any, **kwargs: Any) -> Any:
    """In the place of a forward that was put on the instance."""
    dispatch, own = self.__dict__[DISPATCH], self.__dict__[BEHIND]
    return dispatch.calls.run(dispatch, self, own, args, kwargs)


def _rebind(module: nn.Module, old: Any, new: Any) -> bool:
    """Let methods bound on the instance, to the forward that its class had, be those of another."""
    found = False
    for name, value in list(module.__dict__.items()):
        if _is_bound(value, module, old):
            module.__dict__[name] = types.MethodType(new, module)
            found = True
    # A forward on the instance may have it as a variable: what makes a layer parallel by tensors.
    for cell in getattr(module.__dict__.get("forward"), "__closure__", None) or ():
        if _is_bound(_content(cell), module, old):
            cell.cell_contents = types.MethodType(new, module)
            found = True
    return found


def _is_bound(value: Any, module: nn.Module, function: Any) -> bool:
    bound = isinstance(value, types.MethodType) and value.__self__ is module
    return bound and value.__func__ is function


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


class _Following(type):
    """The kind of class that adapted modules have: it joins properties that are put on it."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if isinstance(value, property) and name in getattr(cls, WEIGHTS, ()):
            value = _joined(name, value)
        super().__setattr__(name, value)


@functools.cache
def _following(meta: type) -> Any:
    """The same for classes of a kind of their own."""
    return _Following if meta is type else type(meta.__name__, (_Following, meta), {})


# Only modules keep their class alive: it has the one that it derives from, which may be made, and
# forgotten, while the program runs.
_DERIVED: weakref.WeakKeyDictionary[Any, weakref.WeakValueDictionary[tuple[str, ...], Any]]
_DERIVED = weakref.WeakKeyDictionary()


def _derived(kind: Any, weights: tuple[str, ...]) -> Any:
    """The class of an adapted module, for the class that it had."""
    known = _DERIVED.setdefault(kind, weakref.WeakValueDictionary())
    return known.get(weights) or known.setdefault(weights, _derive(kind, weights))


def _derive(kind: Any, weights: tuple[str, ...]) -> Any:
    space: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__reduce_ex__": _reduced,
        "register_parameter": _registered,
        ORIGINAL: kind,
        WEIGHTS: weights,
        # Where pickle looks for it, by its name.
        "_instead": _instead,
    }
    space |= {name: _weight(name) for name in weights}
    if hasattr(kind, "save_pretrained"):
        space |= {"save_pretrained": _save_pretrained, "_keys_to_ignore_on_save": property(_base)}

    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        dispatch = self.__dict__.get(DISPATCH)
        own = super(made, self).forward
        if dispatch is None:
            return own(*args, **kwargs)
        return dispatch.calls.run(dispatch, self, own, args, kwargs)

    # In the class from the start: a base that wraps its subclasses' forward when they are made (the
    # checkpointed layers of `transformers`) wraps this one, which thereby runs again with the
    # layer.
    meta = _following(type(kind))  # type: ignore[arg-type]
    made: Any = meta(kind.__name__, (kind,), space | {"forward": forward})
    return made


def _reduced(self: nn.Module, protocol: Any) -> Any:
    """A module is pickled, and copied, by the class that it had; its state says the rest."""
    kind: Any = type(self)
    original = kind.__dict__[ORIGINAL]
    names = kind.__dict__[WEIGHTS]
    _, _, *rest = super(kind, self).__reduce_ex__(protocol)
    return (_rebuilt, (original, names), *rest)


def _rebuilt(original: Any, weights: tuple[str, ...]) -> Any:
    kind = _derived(original, weights)
    return object.__new__(kind)


def _registered(self: Any, name: str, param: Any) -> None:
    """Refuse what cuts a module's parameters in parts, and the adapter's by the same rule."""
    if is_adapters(name):
        raise PeftError(
            "a module was adapted before its weights were shared by several processes",
            code="R534",
            help="parallelize_module first, and peftlang.compile then: which part of the adapter "
            "belongs to which process follows from the weights",
        )
    nn.Module.register_parameter(self, name, param)


def _save_pretrained(
    self: Any,
    save_directory: str,
    is_main_process: bool = True,
    state_dict: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> None:
    """Write the adapters: `transformers` would write a folder that reloads as the base.

    Each adapter's folder is one that ``peftlang.load`` reads. Their tensors stand in
    ``model.safetensors`` besides, under their names in the state dict, where a Trainer that resumes
    looks for them.

    Args:
        self: The model.
        save_directory: The folder; each adapter is a folder in it.
        is_main_process: Whether this process writes.
        state_dict: The model's, where it is gathered from several processes.
        **options: Those of ``transformers``, which are about the base.

    Raises:
        PeftError: R527, the module is a part of an adapted model, or the folder is to be pushed;
            D604, it cannot be written.
    """
    dispatch = self.__dict__.get(DISPATCH)
    if dispatch is None:
        own = getattr(type(self), ORIGINAL)
        own.save_pretrained(self, save_directory, is_main_process, state_dict, **options)
        return
    if dispatch.path:
        raise PeftError(
            f"`{dispatch.path}` is a part of an adapted model, and cannot be saved without it",
            code="R527",
            help="save the adapter with `peftlang.save(model, folder)`; for weights that hold what "
            "it does, `peftlang.merge(model)` first",
        )
    if options.get("push_to_hub"):
        raise PeftError(
            "an adapted model is not pushed while it is saved",
            code="R527",
            help="save it, and upload the folder: `huggingface_hub.upload_folder`; for weights "
            "that hold what the adapter does, `peftlang.merge(model)` first",
        )
    if is_main_process:
        dispatch.calls.save(str(save_directory), state_dict)


def _base(self: Any) -> set[str]:
    """What `save_pretrained` leaves out, so that a Trainer that resumes does not miss it."""
    return {name for name in self.state_dict() if not is_adapters(name)}


def _weight(name: str) -> property:
    """A parameter that another value may stand in for while an adapter acts."""

    def put(self: Any, value: Any) -> None:
        self.__dict__[name] = value

    def drop(self: Any) -> None:
        self.__dict__.pop(name)

    return property(_reading(name, functools.partial(own_weight, name=name)), put, drop)


def _joined(name: str, found: property) -> property:
    """A property that was put in the place of a parameter, with an adapter's value before it."""
    if found.fget is None or hasattr(found.fget, READS):
        return found
    return property(_reading(name, found.fget), found.fset, found.fdel)


def _reading(name: str, own: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def get(self: Any) -> Any:
        state = self.__dict__
        call = innermost()
        if call is not None and DISPATCH in state:
            dispatch = state[DISPATCH]
            if call.owner is dispatch.calls:
                found = dispatch.calls.weight(call, dispatch, name, lambda: own(self))
                if found is not None:
                    return found
        return own(self)

    setattr(get, READS, name)
    return get


def own_weight(module: nn.Module, name: str) -> Any:
    """A parameter of a module, whatever an adapter lets others read in its place."""
    state = module.__dict__
    if name in state:
        return state[name]
    if name in state["_parameters"]:
        return state["_parameters"][name]
    if name in state["_buffers"]:
        return state["_buffers"][name]
    raise AttributeError(f"'{type(module).__name__}' object has no attribute '{name}'")

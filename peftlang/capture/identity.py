"""A name for all that the recording of a model depends on: equal names, equal graphs.

Weights are left out: recording computes with their shapes. Where something has no name by which it
could be told from others (a class of the user's own, whose code may change; a forward that was put
on an instance; a function of `torch` or `transformers` that somebody has replaced), the recording
has none either.
"""

import enum
import functools
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from peftlang import keeping
from peftlang.capture.paths import is_adapters
from peftlang.capture.stand_in import modules_of, own_class

PACKAGES = ("torch", "transformers")
"""Packages whose code is known by their version."""

_BESIDE = ("accelerate", "huggingface_hub", "safetensors", "typing_extensions")
"""Packages from which those import what has no part in a forward."""

_KNOWN = frozenset({*PACKAGES, *_BESIDE, "peftlang"}) | sys.stdlib_module_names
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_ASIDE = frozenset(nn.Module().__dict__) | {"training", "generation_config"}
"""Attributes of modules that are read otherwise, or have no part in a forward."""

_MOST = 1 << 20
"""Up to how many bytes of an argument's values are looked at."""


class _NamelessError(Exception):
    """Something has no name."""


def identity(model: nn.Module, example_inputs: Mapping[str, Any]) -> str | None:
    """A name for the graph that is recorded of a model called with these inputs; None for none.

    Args:
        model: Any module; of an adapted one, the base.
        example_inputs: Keyword arguments of its forward.
    """
    if any(map(keeping.is_editable, PACKAGES)):
        return None
    try:
        parts = [
            keeping.own_code(),
            sys.version,
            torch.__version__,
            str(keeping.version_of("transformers")),
            str(torch.get_default_dtype()),
            *_Names().of_model(model, example_inputs),
        ]
    except _NamelessError:
        return None
    return sha256("\n".join(parts).encode()).hexdigest()


class _Names:
    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []
        self._modules: set[str] = set()
        self._chosen: set[str] = {"eager", "sdpa"}

    def of_model(self, model: nn.Module, inputs: Mapping[str, Any]) -> Iterator[str]:
        """A name for each module, and for each input."""
        for path, module in modules_of(model):
            self._seen[id(module)] = len(self._seen)
            yield f"{path} {self._class(own_class(module))}"
        for path, module in modules_of(model):
            yield f"{path}: {self._state(module)}"
        yield _joined((name, self.value(value, whole=True)) for name, value in inputs.items())
        self._registered()

    def _state(self, module: nn.Module) -> str:
        own = module.__dict__
        if "forward" in own or own.get("_compiled_call_impl") is not None:
            raise _NamelessError
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if any(getattr(hook, "__module__", "").startswith("torch.nn.utils") for hook in hooks):
            raise _NamelessError
        inner = [(n, id(m)) for n, m in own["_modules"].items() if not is_adapters(n)]
        found = [(name, f"#{self._seen.get(key)}") for name, key in inner]
        found += [(n, self._tensor(p)) for n, p in own["_parameters"].items()]
        found += [(n, self.value(b, whole=True)) for n, b in own["_buffers"].items()]
        found += [
            (name, self.value(value))
            for name, value in own.items()
            if name not in _ASIDE and not name.startswith("_peftlang")
        ]
        return _joined(found)

    def _tensor(self, value: Tensor | None) -> str:
        if value is None or type(value) not in {Tensor, nn.Parameter}:
            return self._or_nameless(value)
        if id(value) in self._seen:
            return f"#{self._seen[id(value)]}"
        self._remember(value)
        return f"{value.dtype}{tuple(value.shape)}{value.stride()}"

    def _or_nameless(self, value: Any) -> str:
        if value is not None:
            raise _NamelessError
        return "None"

    def _remember(self, value: Any) -> None:
        self._seen[id(value)] = len(self._seen)
        # What lives on gives its id to no other.
        self._alive.append(value)

    def value(self, value: Any, *, whole: bool = False) -> str:
        """A name for a value; for a tensor's numbers, too, if it is to be ``whole``."""
        if isinstance(value, (bool, enum.Enum, *_PLAIN)):
            return repr(value)
        if id(value) in self._seen:
            return f"#{self._seen[id(value)]}"
        if isinstance(value, Tensor):
            return self._tensor(value) + (self._numbers(value) if whole else "")
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
            return self._function(value)
        self._remember(value)
        return self._held(value, whole=whole)

    def _held(self, value: Any, *, whole: bool) -> str:
        kind = type(value).__name__
        if isinstance(value, dict):
            pairs = [(self.value(k), self.value(v, whole=whole)) for k, v in value.items()]
            return f"{kind}{_joined(pairs)}"
        if isinstance(value, list | tuple):
            return f"{kind}[{', '.join(self.value(item, whole=whole) for item in value)}]"
        if isinstance(value, set | frozenset):
            # Their order is another in each process.
            if not all(isinstance(item, _PLAIN) for item in value):
                raise _NamelessError
            return f"{kind}[{', '.join(sorted(map(repr, value)))}]"
        return self._object(value)

    def _numbers(self, value: Tensor) -> str:
        if value.is_meta:
            return " meta"
        if value.numel() * value.element_size() > _MOST:
            # Of many numbers, recording sees none.
            if value.is_floating_point():
                return " many"
            raise _NamelessError
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f" {sha256(numbers.numpy().tobytes()).hexdigest()}"

    def _object(self, value: Any) -> str:
        if isinstance(value, functools.partial):
            parts = value.func, value.args, value.keywords
            return f"partial {' '.join(map(self.value, parts))}"
        state = getattr(value, "__dict__", None)
        if isinstance(value, nn.Module) or state is None:
            raise _NamelessError
        name = self._class(type(value))
        chosen = (v for k, v in state.items() if "_implementation" in k and isinstance(v, str))
        self._chosen.update(chosen)
        return f"{name} {_joined((key, self.value(item)) for key, item in state.items())}"

    def _function(self, value: Any) -> str:
        if isinstance(value, types.MethodType):
            return f"{self._function(value.__func__)} of {self.value(value.__self__)}"
        _check_known(value)
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        return f"{value.__module__}.{value.__qualname__} {' '.join(map(self.value, cells))}"

    def _class(self, kind: type) -> str:
        for above in kind.__mro__:
            _check_known(above)
            forward = above.__dict__.get("forward")
            if forward is not None:
                _check_known(forward)
            if above.__module__ not in self._modules:
                self._modules.add(above.__module__)
                if issubclass(above, nn.Module):
                    _check_unpatched(sys.modules.get(above.__module__))
        return f"{kind.__module__}.{kind.__qualname__}"

    def _registered(self) -> None:
        """What stands for the attention, or for experts, that a config names is its package's."""
        for home, name in (
            ("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS"),
            ("transformers.masking_utils", "ALL_MASK_ATTENTION_FUNCTIONS"),
            ("transformers.integrations.moe", "ALL_EXPERTS_FUNCTIONS"),
        ):
            table: Mapping[str, Any] = getattr(sys.modules.get(home), name, {})
            for chosen in self._chosen & set(table):
                _check_known(table[chosen])


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    return f"{{{', '.join(f'{name}: {value}' for name, value in pairs)}}}"


def _check_known(value: Any) -> None:
    if (getattr(value, "__module__", None) or "builtins").partition(".")[0] not in _KNOWN:
        raise _NamelessError


def _check_unpatched(module: Any) -> None:
    """What a module calls by name is of a package that is known."""
    for value in list(vars(module).values()) if module is not None else ():
        if isinstance(value, types.FunctionType | type):
            _check_known(value)

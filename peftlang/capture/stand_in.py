"""A copy of a model without its weights: to be called, looked at and thrown away.

What a model does is read by calling a copy of it, so that nothing of the call is left in the model
or in what its modules hold. The copy has modules of the same classes and attributes, stand-ins for
parameters, and small buffers with their values, from which models compute sizes and masks.
"""

import copy
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from peftlang.capture.paths import ADAPTERS, is_adapters
from peftlang.capture.storage import compute_type, is_sharded, packed, unpacked
from peftlang.capture.undisturbed import has_values, sizes_of

Home = Callable[[Tensor], Tensor]


def base_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's parameters by name but for adapters'; tied ones once."""
    return {name: p for name, p in module.named_parameters() if not is_adapters(name)}


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has without those put on top of it to adapt or to shard it."""
    kind = type(module)
    while "_peftlang_original" in kind.__dict__ or kind.__name__.startswith("FSDP"):
        above = kind.__dict__.get("_peftlang_original")
        if above is None and not any(c.__name__ == "FSDPModule" for c in kind.__mro__):
            break
        kind = above if above is not None else kind.__mro__[2]
    return kind


def modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a base, with their paths: every one once, those of adapters left out."""
    return ((path, m) for path, m in model.named_modules() if not is_adapters(path))


class _Copier:
    """Copies modules, their tensors as ``home`` gives them."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._memo: dict[int, Any] = {}

    def __call__(self, model: nn.Module) -> nn.Module:
        # All modules first: whatever refers to one, on whatever way, then finds its copy.
        found = [module for path, module in model.named_modules() if not is_adapters(path)]
        for module in found:
            if packed(module) is not None:
                self._memo[id(module)] = self._linear(module)
            else:
                self._memo[id(module)] = object.__new__(own_class(module))
        for module in found:
            if packed(module) is None:
                self._fill(module, self._memo[id(module)])
        copied: nn.Module = self._memo[id(model)]
        return copied

    def _linear(self, module: nn.Module) -> nn.Module:
        """A linear layer in the place of a packed one, which does the same by means of its own."""
        d_x, d_h = packed(module) or (0, 0)
        twin = nn.Linear(1, 1, bias=False, device="meta")
        twin.in_features, twin.out_features = d_x, d_h
        twin.training = module.training
        twin.weight = self._weight(module, (d_h, d_x))
        bias = module._parameters.get("bias")
        if bias is not None:
            twin.bias = self.value(bias)
        return twin

    def _weight(self, module: nn.Module, sizes: tuple[int, int]) -> nn.Parameter:
        kind = compute_type(module) or torch.get_default_dtype()
        made = self._home(nn.Parameter(torch.empty(sizes, dtype=kind, device="meta")))
        return nn.Parameter(made, requires_grad=False)

    def _fill(self, module: nn.Module, twin: nn.Module) -> None:
        for name, value in module.__dict__.items():
            if not name.startswith("_peftlang") and name not in _HOOKS:
                twin.__dict__[name] = self.value(value)
        for name in _HOOKS:
            held = module.__dict__.get(name)
            twin.__dict__[name] = type(held)() if held is not None else {}
        # Hooks that compute a weight (pruning, weight norm) belong to the module; others, which
        # may write down what they see, to somebody else.
        kept = {k: h for k, h in module._forward_pre_hooks.items() if _of_torch(h)}
        twin._forward_pre_hooks.update({k: self.value(h) for k, h in kept.items()})
        _unhooked(twin)
        if any(is_sharded(p) for p in module._parameters.values()):
            # What cuts and joins around it, for weights that the twin has whole.
            twin.__dict__.pop("forward", None)

    def value(self, value: Any) -> Any:
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, Tensor):
            made: Any = self._home(value)
        elif type(value) in {list, tuple, set}:
            made = type(value)(map(self.value, value))
        elif isinstance(value, dict):
            made = _emptied(value)
            made.update({k: self.value(v) for k, v in value.items() if k != ADAPTERS})
        elif isinstance(getattr(value, "__self__", None), nn.Module):
            made = types.MethodType(value.__func__, self.value(value.__self__))
        elif isinstance(value, types.FunctionType) and value.__closure__:
            made = self._function(value)
        else:
            return self._other(value)
        self._memo[id(value)] = made
        # What is copied lives on, so that no other object gets its id.
        self._memo.setdefault(-1, []).append(value)
        return made

    def _function(self, function: types.FunctionType) -> Any:
        """A function that was put on a module, and may hold it: its copy holds the copy."""
        cells = function.__closure__ or ()
        held = [cell.cell_contents for cell in cells if _is_filled(cell)]
        if len(held) < len(cells) or not any(map(_is_of_module, held)):
            return function
        new = tuple(types.CellType(self.value(one) if _is_of_module(one) else one) for one in held)
        made = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, new
        )
        made.__kwdefaults__ = function.__kwdefaults__
        return made

    def _other(self, value: Any) -> Any:
        """A configuration is copied; what cannot be (a lock, a group) is the model's own."""
        try:
            return copy.deepcopy(value, self._memo)
        except Exception:
            return value


class _Arguments(_Copier):
    """Copies arguments, and objects of Python classes among them: caches of keys and values."""

    def _other(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, nn.Module | type | types.FunctionType) or not _is_plain(kind):
            return value if isinstance(value, nn.Module) else super()._other(value)
        made = object.__new__(kind)
        self._memo[id(value)] = made
        self._memo.setdefault(-1, []).append(value)
        made.__dict__.update({k: self.value(v) for k, v in value.__dict__.items()})
        return made


def _is_plain(kind: type) -> bool:
    """Whether objects are made of their attributes, and of nothing else."""
    special = ("__reduce__", "__reduce_ex__", "__getstate__", "__deepcopy__", "__slots__")
    made: Any = kind.__new__
    return made is object.__new__ and all(
        getattr(kind, name, None) is getattr(object, name, None) for name in special
    )


_HOOKS = (
    *(n for n in nn.Module().__dict__ if n.endswith(("_hooks", "_hooks_with_kwargs"))),
    "_forward_hooks_always_called",
)


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_of_module(value: Any) -> bool:
    return isinstance(value, nn.Module) or isinstance(getattr(value, "__self__", None), nn.Module)


def _of_torch(hook: Any) -> bool:
    return type(hook).__module__.startswith("torch.") and type(hook).__name__ != "function"


def _emptied(value: dict[Any, Any]) -> dict[Any, Any]:
    try:
        return type(value)()
    except TypeError:
        return {}


def _unhooked(twin: nn.Module) -> None:
    """Without what brings weights from elsewhere for each call, as `accelerate` does."""
    if "_hf_hook" in twin.__dict__:
        del twin.__dict__["_hf_hook"]
        twin.__dict__.pop("_old_forward", None)
        twin.__dict__.pop("forward", None)


SMALL = 1 << 20
"""Most numbers of a buffer whose values are kept."""


def without_weights(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """A copy whose parameters, and large buffers, have shapes and number types alone."""

    def home(tensor: Tensor) -> Tensor:
        parameter = isinstance(tensor, nn.Parameter)
        if not parameter and has_values(tensor) and tensor.numel() <= SMALL:
            return _plain(tensor).detach().to("cpu", copy=True)
        if not parameter and tensor.is_meta and tensor.numel() <= SMALL:
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        with fake:
            made = torch.empty(sizes_of(tensor), dtype=tensor.dtype)
        return nn.Parameter(made, requires_grad=False) if parameter else made

    return _Copier(home)(model)


def without_values(values: Any, fake: FakeTensorMode) -> Any:
    """A copy of arguments, whatever holds tensors in them; of real numbers, without the values."""

    def home(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() and has_values(tensor):
            return _plain(tensor).detach().to("cpu", copy=True)
        with fake:
            return torch.empty(sizes_of(tensor), dtype=tensor.dtype)

    return _Arguments(home).value(values)


def with_weights(model: nn.Module) -> nn.Module:
    """A copy that shares the model's weights, for a model whose values decide what it does."""

    def home(tensor: Tensor) -> Tensor:
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(tensor.detach(), requires_grad=False)
        return tensor.detach().clone()

    return _Unpacking(home)(model)


class _Unpacking(_Copier):
    """Copies modules with the values of their weights, packed ones unpacked."""

    def _weight(self, module: nn.Module, sizes: tuple[int, int]) -> nn.Parameter:
        return nn.Parameter(unpacked(module).to(compute_type(module)), requires_grad=False)


def _plain(tensor: Tensor) -> Tensor:
    """A sharded tensor as the part of it that is here."""
    local = getattr(tensor, "to_local", None)
    return local() if local is not None else tensor

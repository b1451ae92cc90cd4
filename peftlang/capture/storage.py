"""Where a base's weights are: in their module, packed, in shards, or elsewhere between calls.

Whoever asks for a weight's numbers asks here, and gets a plain tensor of real numbers:

- a *packed* layer (bitsandbytes, HQQ, GPTQ, a kernel of one's own) maps ``[..., d_x]`` to
  ``[..., d_h]`` with no weight of real numbers. It counts as a linear layer, whose weight may or
  may not be unpacked;
- a quantised tensor (torchao) has the shape of what it stands for, and unpacks itself;
- a tensor in shards (`DTensor`) is gathered: all processes have to ask;
- weights that `accelerate` keeps elsewhere between calls are brought from there.
"""

import copy
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from peftlang.capture.paths import is_adapters
from peftlang.diagnostics import PeftError

_SIZES = (("in_features", "out_features"), ("infeatures", "outfeatures"))
"""What layers call their sizes."""

_HALF = (torch.float16, torch.bfloat16)


# Packed layers


def packed(module: nn.Module) -> tuple[int, int] | None:
    """The sizes ``(d_x, d_h)`` of a linear layer without a weight of real numbers; else None."""
    sizes = next((s for names in _SIZES if (s := _whole(module, names)) is not None), None)
    if sizes is None:
        return None
    own = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
    if any(_is_real(t) and sorted(t.shape) == sorted(sizes) for t in own):
        return None
    held = any(not _is_real(t) and t.numel() > 1 for t in own)
    return sizes if held or _is_late(module) else None


def _whole(module: nn.Module, names: tuple[str, str]) -> tuple[int, int] | None:
    first, second = (getattr(module, name, None) for name in names)
    return (first, second) if isinstance(first, int) and isinstance(second, int) else None


def _is_real(tensor: Tensor) -> bool:
    """Whether it holds real numbers to compute with: not whole ones, and none of eight bits."""
    return tensor.is_floating_point() and tensor.dtype.itemsize > 1


def _is_late(module: nn.Module) -> bool:
    """Whether it is of bitsandbytes, on the way there: packed when it is first moved."""
    return type(module.__dict__["_parameters"].get("weight")).__module__.startswith("bitsandbytes")


def own_parameters(module: nn.Module) -> dict[str, Any]:
    """What counts as a module's own parameters, by name: those of a packed layer are its linear's.

    Values tell one parameter from another by their identity; that of a packed weight is no tensor.
    """
    own: dict[str, Any] = {k: p for k, p in module._parameters.items() if p is not None}
    if packed(module) is None:
        return own
    weight = own.get("weight", module)
    return {"weight": weight} | ({"bias": own["bias"]} if "bias" in own else {})


def compute_type(module: nn.Module) -> torch.dtype | None:
    """The number type in which a packed layer computes, as far as it says so."""
    said = getattr(module, "compute_dtype", None)
    if isinstance(said, torch.dtype):
        return said
    own = (*module._parameters.values(), *module._buffers.values())
    return next((t.dtype for t in own if t is not None and t.dtype in _HALF), None)


def is_quantised(tensor: Any) -> bool:
    """Whether a tensor unpacks itself: of a class of its own, made of others."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    plain = type(tensor) in {Tensor, nn.Parameter} or isinstance(tensor, FakeTensor)
    return (
        not plain
        and not is_sharded(tensor)
        and is_traceable_wrapper_subclass(tensor)
        and getattr(type(tensor), "dequantize", None) is not Tensor.dequantize
    )


def is_readable(module: nn.Module, name: str) -> bool:
    """Whether a parameter of a module can be had in real numbers."""
    return packed(module) is None or name != "weight" or _unpacking(module) is not None


def unpacked(module: nn.Module, path: str = "") -> Tensor:
    """The weight ``[d_h, d_x]`` of a packed layer.

    Raises:
        PeftError: R531, nothing unpacks it.
    """
    found = _unpacking(module)
    if found is None:
        raise cannot_unpack(path, module)
    with torch.no_grad():
        made: Tensor = found()
    sizes = packed(module)
    assert sizes is not None
    return made.detach().reshape(sizes[1], sizes[0])


def cannot_unpack(path: str, module: nn.Module, method: str = "") -> PeftError:
    """The error for a weight whose numbers cannot be had."""
    needed = f"`{method}` needs a weight's numbers: " if method else ""
    return PeftError(
        f"{needed}the weight of `{path}` is packed ({type(module).__name__}), and nothing says how "
        "to unpack it",
        code="R531",
        help="give the layer a method `dequantize()` that returns its weight [d_h, d_x]; or use a "
        "method that reads and writes `x` and `h` alone, such as `lora`",
    )


def _unpacking(module: nn.Module) -> Any:
    """What gives the weight of a packed layer."""
    own = getattr(module, "dequantize", None)
    if callable(own):
        return own
    weight = module._parameters.get("weight")
    if type(weight).__name__ == "Params4bit":
        return lambda: _of_four_bits(module, weight)
    if type(weight).__name__ == "Int8Params":
        return lambda: _of_eight_bits(module, weight)
    return None


def _of_four_bits(module: nn.Module, weight: Any) -> Tensor:
    functional = sys.modules["bitsandbytes.functional"]
    state = weight.quant_state if weight.quant_state is not None else module.quant_state
    data = weight.data
    if state is None:
        return weight.data  # type: ignore[no-any-return]
    if getattr(state, "packing_format_for_cpu", False):
        layers = sys.modules["bitsandbytes.nn.modules"]
        # It writes into the state that it is given, and that one is the layer's own.
        data, state = layers._convert_weight_packed_for_cpu_inverse(data, copy.copy(state))
    made: Tensor = functional.dequantize_4bit(data, state)
    return made


def _of_eight_bits(module: Any, weight: Any) -> Any:
    state = module.state
    scales = state.SCB if state.SCB is not None else weight.SCB
    data = state.CB if state.CB is not None else weight.data
    return data if scales is None else data.float() * (scales.float().view(-1, 1) / 127)


# Shards


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is one of several processes' (`DTensor`)."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "device_mesh")


def gathered(tensor: Tensor) -> Tensor:
    """A tensor with the parts that other processes have; all of them have to ask."""
    part: Any = tensor
    return part.full_tensor() if is_sharded(tensor) else tensor


def assign(tensor: Tensor, value: Tensor) -> None:
    """Put numbers into a tensor where it is; into a shard, the part that it holds.

    Args:
        tensor: Of any number type, on any device.
        value: All of it, in a plain tensor.
    """
    with torch.no_grad():
        if is_sharded(tensor):
            from torch.distributed.tensor import distribute_tensor

            part: Any = tensor
            kind = part.to_local()
            full = value.to(kind.device, kind.dtype)
            # Every process has all of it, so none has to send.
            made = distribute_tensor(full, part.device_mesh, part.placements, src_data_rank=None)
            part.to_local().copy_(made.to_local())
        else:
            tensor.copy_(value)


# Weights that are elsewhere between calls


def offloading(root: nn.Module, path: str, leaf: str) -> tuple[Any, str] | None:
    """What brings a tensor from elsewhere for the time of a call, and what it calls it."""
    parts, name = path.split(".") if path else [], leaf
    module = root.get_submodule(path)
    if (hook := _hook(module)) is not None:
        return hook, name
    while parts:
        name = f"{parts.pop()}.{name}"
        hook = _hook(root.get_submodule(".".join(parts)))
        if hook is not None and getattr(hook, "place_submodules", False):
            return hook, name
    return None


def is_offloaded(module: nn.Module) -> bool:
    """Whether a module's own tensors are elsewhere between calls."""
    return _hook(module) is not None


def _hook(module: nn.Module) -> Any:
    top = module.__dict__.get("_hf_hook")
    for hook in getattr(top, "hooks", (top,)):
        if getattr(hook, "offload", False) and getattr(hook, "weights_map", None) is not None:
            return hook
    return None


def held(root: nn.Module, path: str, leaf: str) -> Tensor:
    """A tensor of a model as it is kept: brought from elsewhere, where it is there."""
    module = root.get_submodule(path)
    found: Tensor | None = module._parameters.get(leaf)
    found = module._buffers.get(leaf) if found is None else found
    assert found is not None
    if found.is_meta and (by := offloading(root, path, leaf)) is not None:
        hook, name = by
        brought: Tensor = hook.weights_map[name]
        return brought.to(_device(hook.execution_device))
    return found


def _device(said: Any) -> torch.device:
    return torch.device("cpu") if said is None else torch.device(said)


# All of them


class Weights(Mapping[str, Tensor]):
    """A base's parameters by their (first) names, each a plain tensor, made when asked for.

    Attributes:
        root: The base, adapted or not.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._places: dict[str, tuple[str, str]] = {}
        self._packed: dict[str, tuple[int, int] | None] = {}
        seen: set[int] = set()
        for path, module in root.named_modules():
            if is_adapters(path):
                continue
            for leaf, value in own_parameters(module).items():
                if id(value) not in seen:
                    seen.add(id(value))
                    self._places[f"{path}.{leaf}" if path else leaf] = path, leaf

    def _sizes(self, path: str, module: nn.Module) -> tuple[int, int] | None:
        """The sizes of a packed layer; None for any other module."""
        if path not in self._packed:
            self._packed[path] = packed(module)
        return self._packed[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Tensor:
        """The parameter's numbers, detached.

        Raises:
            PeftError: R531, it is packed, and nothing unpacks it.
        """
        path, leaf = self._places[name]
        module = self.root.get_submodule(path)
        if leaf == "weight" and self._sizes(path, module) is not None:
            return unpacked(module, path)
        found = gathered(held(self.root, path, leaf).detach())
        return found.dequantize() if is_quantised(found) else found

    def like(self, name: str) -> Tensor:
        """An empty tensor of its number type, where it is when it is used."""
        path, leaf = self._places[name]
        module = self.root.get_submodule(path)
        if leaf == "weight" and self._sizes(path, module) is not None:
            return self._like_packed(module)
        found = module._parameters[leaf]
        assert found is not None
        device = found.device
        if found.is_meta and (by := offloading(self.root, path, leaf)) is not None:
            device = _device(by[0].execution_device)
        return torch.empty(0, dtype=found.dtype, device=device)

    def _like_packed(self, module: nn.Module) -> Tensor:
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        kind = compute_type(module) or next(
            (p.dtype for p in self.root.parameters() if type(p) is nn.Parameter and _is_real(p)),
            torch.get_default_dtype(),
        )
        return torch.empty(0, dtype=kind, device=own[0].device)

    def shape(self, name: str) -> tuple[int, ...]:
        """A parameter's sizes; those of the whole where it is in shards, or packed."""
        path, leaf = self._places[name]
        module = self.root.get_submodule(path)
        sizes = self._sizes(path, module)
        if leaf == "weight" and sizes is not None:
            return sizes[1], sizes[0]
        found = module._parameters[leaf]
        assert found is not None
        return tuple(found.shape)

    def is_plain(self, name: str) -> bool:
        """Whether the parameter is of real numbers itself, and neither packed nor quantised."""
        path, leaf = self._places[name]
        module = self.root.get_submodule(path)
        if leaf == "weight" and self._sizes(path, module) is not None:
            return False
        found = module._parameters[leaf]
        return found is not None and _is_real(found) and not is_quantised(found)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's sizes."""
        return {name: self.shape(name) for name in self}

    def is_offloaded(self, name: str) -> bool:
        """Whether the parameter is elsewhere between calls."""
        path, leaf = self._places[name]
        found = self.root.get_submodule(path)._parameters.get(leaf)
        return found is not None and found.is_meta and offloading(self.root, path, leaf) is not None

    def raw(self, name: str) -> Tensor | None:
        """The parameter as the module has it; None for one that a packed layer has not."""
        path, leaf = self._places[name]
        return self.root.get_submodule(path)._parameters.get(leaf)

    def place(self, name: str) -> tuple[str, str]:
        """The module that has it, and what it is called there."""
        return self._places[name]


def device_of(model: nn.Module) -> torch.device:
    """The device on which a model computes, as its first parameter says."""
    first = next(model.parameters())
    if not first.is_meta:
        return first.device
    weights = Weights(model)
    return weights.like(next(iter(weights))).device

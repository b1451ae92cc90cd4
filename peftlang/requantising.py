"""Merged weights of a quantised base, quantised anew in the way that the base's are."""

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import Weights
from peftlang.capture.storage import packed, unpacked
from peftlang.diagnostics import PeftError


@dataclass(frozen=True)
class Anew:
    """A weight that is ready to be put in its place.

    Attributes:
        install: Puts it there.
        error: The largest difference between the merged weight and what is stored of it.
    """

    install: Callable[[], None]
    error: float


def prepared(
    weights: Weights, merged: Mapping[str, Tensor], *, requantise: bool, keep: bool
) -> dict[str, Anew]:
    """The merged weights of quantised parameters, quantised; nothing is changed yet.

    Args:
        weights: The base's.
        merged: Merged values, by name.
        requantise: Whether that is asked for.
        keep: Whether the weights are to come back.

    Raises:
        PeftError: R535, it is not asked for, or this kind cannot be quantised anew; R536, a
            parameter is offloaded.
    """
    for name in merged:
        if weights.is_offloaded(name):
            raise PeftError(
                f"`{name}` is offloaded, and a merged weight would not get where it is kept",
                code="R536",
                help="merge before the base is offloaded, or save the adapter and merge it into a "
                "base that is in memory",
            )
    quantised = [name for name in merged if not weights.is_plain(name)]
    if quantised and (not requantise or keep):
        raise _refused(quantised[0], keep=requantise)
    return {name: _anew(weights, name, merged[name]) for name in quantised}


def _anew(weights: Weights, name: str, value: Tensor) -> Anew:
    path, leaf = weights.place(name)
    module = weights.root.get_submodule(path)
    raw = module._parameters.get(leaf)
    value = value.to(weights.like(name).dtype)
    with torch.no_grad():
        if packed(module) is None:
            made = _like_torchao(raw, value, name)
            error = _distance(made.dequantize(), value)
            return Anew(lambda: _put(module, leaf, made), error)
        twin = _packed_like(module, raw, value, name)
        return Anew(lambda: _take_over(module, twin), _distance(unpacked(twin, path), value))


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def _put(module: nn.Module, leaf: str, made: Tensor) -> None:
    module._parameters[leaf] = nn.Parameter(made, requires_grad=False)


def _take_over(module: nn.Module, twin: nn.Module) -> None:
    """Let a module hold what another one of its kind does."""
    module.__dict__.update(
        {k: v for k, v in twin.__dict__.items() if k not in {"_modules", "training"}}
    )


def _like_torchao(raw: Any, value: Tensor, name: str) -> Any:
    """A tensor of torchao with the same options: its class says how, by what it kept of them."""
    make = getattr(type(raw), "from_hp", None)
    if make is None:
        raise _unknown(name, type(raw).__name__)
    import inspect

    known = inspect.signature(make).parameters
    options = known.keys() - {"scale", "zero_point"}
    kept = {k: getattr(raw, k) for k in options if getattr(raw, k, None) is not None}
    if "granularity" in known and "granularity" not in kept:
        granularity = sys.modules["torchao.quantization.granularity"]
        block = tuple(getattr(raw, "block_size", ()))
        whole = block == tuple(raw.shape)
        kept["granularity"] = granularity.PerTensor() if whole else granularity.PerRow()
    if "float8_dtype" in known:
        kept["float8_dtype"] = raw.qdata.dtype
    try:
        made = make(value, **kept)
    except Exception as error:
        raise _unknown(name, type(raw).__name__) from error
    if made.qdata.shape != raw.qdata.shape or made.scale.shape != raw.scale.shape:
        raise _unknown(name, type(raw).__name__)
    return made


def _packed_like(module: Any, raw: Any, value: Tensor, name: str) -> nn.Module:
    twin: Any = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin._parameters = dict(module._parameters)
    kind = type(raw).__name__
    if kind == "Params4bit":
        state = raw.quant_state or module.quant_state
        made = type(raw)(
            value.cpu().contiguous(),
            requires_grad=False,
            blocksize=state.blocksize,
            compress_statistics=state.nested,
            quant_type=state.quant_type,
            quant_storage=raw.quant_storage,
        )
        twin._parameters["weight"] = made.to(raw.device)
        twin.quant_state = twin._parameters["weight"].quant_state
    elif kind == "Int8Params":
        made = type(raw)(value.cpu().contiguous(), requires_grad=False, has_fp16_weights=False)
        twin._parameters["weight"] = made.to(raw.device)
        twin.state = copy.copy(module.state)
        twin.state.CB = twin.state.SCB = None
    else:
        raise _unknown(name, type(module).__name__)
    made_of: nn.Module = twin
    return made_of


def _refused(name: str, *, keep: bool) -> PeftError:
    said = (
        "merged weights that are quantised anew cannot be undone"
        if keep
        else (
            f"`{name}` is quantised: a merged weight would have to be rounded once more, which may "
            "lose what was trained"
        )
    )
    return PeftError(
        said,
        code="R535",
        help="keep the adapter beside the base; merge it into the base in full precision "
        "(peftlang.load takes the adapter there); or accept the loss: merge(model, "
        "requantise=True), and last_merge(model).rounding says how large it is",
    )


def _unknown(name: str, kind: str) -> PeftError:
    return PeftError(
        f"`{name}` is quantised in a way ({kind}) that cannot be done anew here",
        code="R535",
        help="keep the adapter beside the base, or merge it into the base in full precision: "
        "peftlang.load takes the adapter there",
    )

"""Parameters of the base that an HF PEFT file holds whole: `modules_to_save`, biases, norms."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.interop.table import Correspondence
from peftlang.interop.targets import ends_with
from peftlang.runtime.store import STORE

ROOT = "base_model.model."


def base_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The base's own parameters by name."""
    return {n: p for n, p in model.named_parameters() if not n.startswith(f"{STORE}.")}


def copied_parameters(
    prefix: str, place: str, remaining: dict[str, Tensor], model: nn.Module
) -> dict[str, Tensor]:
    """A module's own parameters, stored below a key of the method.

    Raises:
        PeftError: I906, one is missing; I907, one is of another shape.
    """
    found = {}
    for leaf, parameter in model.get_submodule(place).named_parameters():
        key = f"{prefix}{leaf}"
        if key not in remaining:
            raise PeftError(
                f"`{key}` is missing in the folder",
                code="I906",
                help="the two files of the folder should come from one save_pretrained",
            )
        found[f"{place}.{leaf}"] = _checked(key, remaining.pop(key), parameter)
    return found


def whole_parameters(
    config: Mapping[str, Any], correspondence: Correspondence, remaining: dict[str, Tensor],
    model: nn.Module,
) -> dict[str, Tensor]:  # fmt: skip
    """New values of the base's own parameters; takes from ``remaining`` what it explains.

    A stored parameter that the configuration does not train, and that equals the base's, says
    nothing (PEFT stores embeddings beside an adapter that targets them) and is passed over.

    Raises:
        PeftError: I904, the option `bias`; I906, a module is not there; I907, a shape differs.
    """
    bias = config.get("bias") or "none"
    if bias not in {"none", "all", f"{correspondence.bias}_only"}:
        raise PeftError(
            f"the option `bias` = {bias!r} has no correspondence",
            code="I904",
            help="`none`, `all` and the method's own `…_only` have one",
        )
    parameters, found = base_parameters(model), {}
    saved = config.get("modules_to_save") or ()
    for key in list(remaining):
        name = key.removeprefix(ROOT).replace(".base_layer.", ".")
        if name not in parameters:
            continue
        module = name.rpartition(".")[0]
        is_bias = bias != "none" and name.endswith("bias")
        is_saved = any(_is_below(module, wanted) for wanted in saved)
        if is_bias or is_saved:
            found[name] = _checked(key, remaining.pop(key), parameters[name])
        elif _equal(remaining[key], parameters[name]):
            del remaining[key]
    _check_saved(saved, found)
    return found


def _is_below(path: str, wanted: str) -> bool:
    parts = path.split(".")
    return any(ends_with(".".join(parts[:count]), wanted) for count in range(1, len(parts) + 1))


def _check_saved(saved: Any, found: Mapping[str, Tensor]) -> None:
    for wanted in saved:
        if not any(_is_below(name.rpartition(".")[0], wanted) for name in found):
            raise PeftError(
                f"`modules_to_save` names `{wanted}`, and the folder holds no parameter of it that "
                "this model has by that name",
                code="I906",
                help="a parameter that is tied to another has the other's name: untie them first",
            )


def _equal(value: Tensor, parameter: Tensor) -> bool:
    own = parameter.detach().to("cpu", value.dtype)
    return own.shape == value.shape and torch.equal(own, value.cpu())


def _checked(key: str, value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        raise PeftError(
            f"`{key}` is {list(value.shape)}, and the model's is {list(parameter.shape)}",
            code="I907",
            help="give the base model that the adapter was trained on",
        )
    return value

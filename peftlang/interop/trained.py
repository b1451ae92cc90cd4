"""Parameters of the base that an HF PEFT file holds whole: `modules_to_save`, biases, norms."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import base_parameters, is_adapters
from peftlang.diagnostics import PeftError
from peftlang.interop.correspondence import Correspondence
from peftlang.interop.targets import own_modules


def tied_names(model: nn.Module) -> dict[str, list[str]]:
    """Every name of each of the base's parameters, by the name that ``base_parameters`` has."""
    first = {id(parameter): name for name, parameter in base_parameters(model).items()}
    found: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not is_adapters(name):
            found[first[id(parameter)]].append(name)
    return found


def copied_parameters(
    prefix: str, place: str, remaining: dict[str, Tensor], model: nn.Module
) -> dict[str, Tensor]:
    """A module's own parameters, stored below a key of the method.

    Raises:
        PeftError: I906, one is missing; I907, one is of another shape.
    """
    found = {}
    for leaf, parameter in base_parameters(model.get_submodule(place)).items():
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
    config: Mapping[str, Any],
    correspondence: Correspondence,
    remaining: dict[str, Tensor],
    model: nn.Module,
) -> dict[str, Tensor]:
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
    parameters, ties = base_parameters(model), tied_names(model)
    first = {name: own for own, names in ties.items() for name in names}
    held: dict[str, dict[str, Tensor]] = {}
    saved = config.get("modules_to_save") or ()
    for key in list(remaining):
        name = key.removeprefix(correspondence.root).replace(".base_layer.", ".")
        if name not in first:
            continue
        parameter = parameters[first[name]]
        is_bias = bias != "none" and name.endswith("bias")
        if is_bias or is_saved(name.rpartition(".")[0], saved):
            held.setdefault(first[name], {})[name] = _checked(key, remaining.pop(key), parameter)
        elif _equal(remaining[key], parameter):
            del remaining[key]
    _check_saved(saved, [name for values in held.values() for name in values], model)
    return {own: _tied(ties[own], values) for own, values in held.items()}


def _tied(names: Sequence[str], values: Mapping[str, Tensor]) -> Tensor:
    """The one value of a parameter that has several names.

    Raises:
        PeftError: I904, the folder changes it for some of its modules, or differently.
    """
    value = next(iter(values.values()))
    if len(values) == len(names) and all(torch.equal(value, other) for other in values.values()):
        return value
    changed, others = next(iter(values)), [name for name in names if name not in values]
    raise PeftError(
        f"the folder has a `{changed}` of its own, which in this model is the same parameter as "
        f"`{(others or list(values)[1:])[0]}`",
        code="I904",
        help="untie the base first, in Python: `head.weight = torch.nn.Parameter("
        "head.weight.clone())`, then peftlang.from_hf; the two are then different parameters",
    )


def is_saved(path: str, saved: Iterable[str]) -> bool:
    """Whether `modules_to_save` means a module: it, or one above it, ends like one of the names."""
    parts = path.split(".")
    above = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(each.endswith(name) for name in saved for each in above)


def _check_saved(saved: Iterable[str], found: Sequence[str], model: nn.Module) -> None:
    """Names of no module at all are passed over: PEFT adds those of every kind of classifier."""
    modules = [path for path, _ in own_modules(model)]
    for wanted in saved:
        there = any(path.endswith(wanted) for path in modules)
        if there and not any(is_saved(name.rpartition(".")[0], [wanted]) for name in found):
            raise PeftError(
                f"`modules_to_save` names `{wanted}`, and the folder holds no parameter of it that "
                "this model has by that name",
                code="I906",
                help="the two files of the folder should come from one save_pretrained",
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

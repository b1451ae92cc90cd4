"""From an HF PEFT folder to a spec, and to an adapted model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.interop import folder as files
from peftlang.interop.options import check_options
from peftlang.interop.prefixes import check
from peftlang.interop.reading import Reading, place_of, read_modules
from peftlang.interop.text import spec_text
from peftlang.ir.plan import TRAINED, Plan
from peftlang.pipeline import compile, survey
from peftlang.runtime import registry as state
from peftlang.runtime.control import adapters, remove
from peftlang.runtime.holders import AdapterTensors
from peftlang.sites.survey import Survey

Model = TypeVar("Model", bound=nn.Module)


def from_hf(
    model: Model,
    folder: str | Path,
    /,
    *,
    adapter_name: str = "default",
    backend: str | Callable[..., Any] = "eager",
    example_inputs: Mapping[str, Any] | None = None,
) -> Model:
    """Put an HF PEFT adapter on its base model, in place, as an adapter of ours.

    Needs no PEFT. ``peftlang.save`` then writes it as any other adapter.

    Args:
        model: The base that the adapter was trained on.
        folder: Where ``adapter_config.json`` and ``adapter_model.safetensors`` lie.
        adapter_name: The adapter's name on the model.
        backend: As for ``compile``.
        example_inputs: As for ``compile``.

    Returns:
        ``model``. The tensors keep the file's number type.

    Raises:
        PeftError: I901, I902, the folder is missing or damaged; I903, I904, a method or an option
            that cannot be expressed; I905, I906, I907, it does not fit the model. The model is
            then as it was.
    """
    reading, surveyed = _read(model, Path(folder), example_inputs)
    compile(
        model,
        spec_text(reading, model, surveyed),
        adapter_name=adapter_name,
        backend=backend,
        example_inputs=example_inputs,
        param_dtype=_dtype(reading),
    )
    try:
        _fill(adapters(model)[adapter_name].plan, state.of(model).tensors(adapter_name), reading)
        if reading.prefix is not None:
            sites = [module.site for module in reading.modules]
            check(model, adapter_name, reading.prefix, sites, reading.trained, "I903")
    except PeftError:
        remove(model, adapter_name)
        raise
    return model


def spec_of(
    model: nn.Module, folder: str | Path, /, *, example_inputs: Mapping[str, Any] | None = None
) -> str:
    """The text of the spec that an HF PEFT folder amounts to on a model.

    Raises:
        PeftError: as ``from_hf``.
    """
    reading, surveyed = _read(model, Path(folder), example_inputs)
    return spec_text(reading, model, surveyed)


def _read(
    model: nn.Module, path: Path, example_inputs: Mapping[str, Any] | None
) -> tuple[Reading, Survey]:
    found = files.read(path)
    correspondence = check_options(found.config)
    surveyed = survey(model, example_inputs)
    return read_modules(found, correspondence, model, surveyed), surveyed


def _dtype(reading: Reading) -> torch.dtype | None:
    tensors = [t for module in reading.modules for t in module.tensors.values()]
    kinds = {t.dtype for t in tensors if t.is_floating_point()}
    return max(kinds, key=lambda kind: kind.itemsize) if kinds else None


def _fill(plan: Plan, tensors: AdapterTensors, reading: Reading) -> None:
    values = dict(_values(plan, reading))
    with torch.no_grad():
        for name, tensor in tensors.named():
            value = values.pop(name, None)
            if value is None:
                continue
            if value.shape != tensor.shape:
                raise PeftError(
                    f"{name} is {list(value.shape)} in the folder, and {list(tensor.shape)} here",
                    code="I907",
                    help="give the base model that the adapter was trained on",
                )
            tensor.copy_(value)
            tensors.keep(name)


def _values(plan: Plan, reading: Reading) -> list[tuple[str, Tensor]]:
    by_place = {module.place: module for module in reading.modules}
    found = [(f"{TRAINED}.{name}", value) for name, value in reading.trained.items()]
    for placement in plan.placements:
        for site_id in placement.sites:
            module = by_place[place_of(plan.sites[site_id])]
            groups = placement.tensors[site_id]
            found += [(groups[name], value) for name, value in module.tensors.items()]
    return found

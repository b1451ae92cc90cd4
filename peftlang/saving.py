"""Adapters in folders: saved, and put on a model again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from peftlang.diagnostics import PeftError
from peftlang.lower import build
from peftlang.lower import load as load_spec
from peftlang.pipeline import check_backend, install
from peftlang.runtime import disk
from peftlang.runtime import registry as state
from peftlang.runtime.shards import settle

Model = TypeVar("Model", bound=nn.Module)


def save(model: nn.Module, folder: str | Path, *, adapter_name: str | None = None) -> Path:
    """Write one adapter to a folder: spec, plan, tensors, and the base's fingerprint.

    The folder is written beside its place and renamed, so that a failure leaves what was there.

    Args:
        model: An adapted model.
        folder: Where to; replaced when it holds a saved adapter already.
        adapter_name: Which adapter; needed when the model has several.

    Raises:
        PeftError: R504, R505, no such adapter; D604, it cannot be written.
    """
    found = state.of(model)
    if adapter_name is None and len(found.records) > 1:
        raise PeftError(
            "the model has several adapters: " + ", ".join(found.records),
            code="R504",
            help="say which: peftlang.save(model, folder, adapter_name=...)",
        )
    settle(model)
    name = adapter_name or next(iter(found.records))
    record = found.require(name)
    return disk.write(Path(folder), record, found.tensors(name), model)


def load(
    model: Model,
    folder: str | Path,
    /,
    *,
    adapter_name: str = "default",
    param_dtype: torch.dtype | None = None,
    backend: str | Callable[..., Any] = "eager",
    example_inputs: Mapping[str, Any] | None = None,
) -> Model:
    """Put a saved adapter on its base model; see ``compile`` for the options.

    Raises:
        PeftError: D601, D602, the folder is missing or damaged; D603, it was made on another
            base; D605, it is of a newer version. The model is then as it was.
    """
    saved = disk.read(Path(folder))
    disk.check_base(saved, model)
    built = build(load_spec(saved.source), saved.entry)
    check_backend(backend)
    install(
        model,
        built,
        adapter_name,
        init_seed=saved.seed,
        param_dtype=param_dtype,
        backend=backend,
        example_inputs=example_inputs,
    )
    try:
        disk.fill(saved, state.of(model).tensors(adapter_name))
    except PeftError:
        state.of(model).remove(adapter_name)
        raise
    return model


def base_of(folder: str | Path) -> str:
    """The name of the model that a saved adapter was made on: a hub id, a folder, or a preset.

    Raises:
        PeftError: D601, D602, D605, as for ``load``; D606, the model had no name.
    """
    name = str(disk.read(Path(folder)).base.get("name") or "")
    if not name:
        raise PeftError(
            f"{folder} does not say which model it was made on",
            code="D606",
            help="name the model: `--model ID`",
        )
    return name

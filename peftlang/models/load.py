"""A model from a name: a preset, a folder, or an id on the hub."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftlang.diagnostics import PeftError
from peftlang.models.presets import PRESETS, build, unknown_model


def load_model(name: str, *, meta: bool = False, dtype: torch.dtype | None = None) -> nn.Module:
    """Load a model, in evaluation mode.

    Args:
        name: A key of `PRESETS`, a folder saved by transformers, or a hub id (which may reach
            for the network, as transformers does).
        meta: Take the configuration only; the weights have shapes and no storage.
        dtype: Floating-point type of the weights; by default what was saved.

    Raises:
        PeftError: C701 if there is no such model; C708 if it is there and cannot be loaded.
    """
    if name in PRESETS:
        with torch.device("meta" if meta else "cpu"):
            model = build(name)
        config: Any = getattr(model, "config", None)
        if config is not None:
            config._name_or_path = name  # what a saved adapter says of its base
        return model if dtype is None else model.to(dtype)
    if not Path(name).is_dir() and name.count("/") != 1:
        raise unknown_model(name)
    return _from_transformers(name, meta=meta, dtype=dtype).eval()


def _from_transformers(name: str, *, meta: bool, dtype: torch.dtype | None) -> nn.Module:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
        model_class = _model_class(config)
        options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        if meta:
            with torch.device("meta"):
                model: nn.Module = model_class._from_config(config, **options)
            return model
        loaded: nn.Module = model_class.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if not Path(name).is_dir():
            raise unknown_model(name) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PeftError(
            f"the model in `{name}` cannot be loaded: {first}",
            code="C708",
            help="the folder should hold config.json and weights, as save_pretrained writes them",
        ) from error
    return loaded


def _model_class(config: Any) -> Any:
    """The class that the configuration names, or the bare model of its type."""
    import transformers

    for architecture in getattr(config, "architectures", None) or ():
        found = getattr(transformers, architecture, None)
        if found is not None:
            return found
    return transformers.MODEL_MAPPING[type(config)]

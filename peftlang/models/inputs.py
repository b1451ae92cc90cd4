"""Small inputs that a model's forward accepts, made from its configuration alone."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.diagnostics import PeftError

# Small, unequal, and unlike usual widths, so that one size is not taken for another.
_BATCH = 2
_TOKENS = 7
_TARGET_TOKENS = 5


def example_inputs(model: nn.Module) -> dict[str, Any]:
    """Keyword arguments for one forward of `model`, on the model's device and in its dtype.

    The model's class says what it takes: the names in its forward's signature, sizes from its
    configuration. A module without a configuration may have a `dummy_inputs` attribute or
    property: a dict of keyword arguments.

    Returns:
        The inputs by name; token ids are ones, pixels and audio features are zeros.

    Raises:
        PeftError: C707 when the inputs cannot be made; they must then be given.
    """
    made = _from_config(model)
    if not made:
        made = getattr(model, "dummy_inputs", None) or {}
    if not isinstance(made, dict) or not made:
        raise PeftError(
            f"no inputs are known for a forward of {type(model).__name__}",
            code="C707",
            help="pass example_inputs, a dict of the arguments of its forward",
        )
    device, dtype = _home(model)
    return {name: _moved(value, device, dtype) for name, value in made.items()}


def _from_config(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    main_input = getattr(model, "main_input_name", None)
    if config is None or main_input is None or not hasattr(config, "to_dict"):
        return {}
    accepted = inspect.signature(model.forward).parameters
    makers = {
        "input_ids": _input_ids,
        "pixel_values": _pixel_values,
        "input_features": _input_features,
        "input_values": _input_values,
    }
    # A model that takes pictures and text takes both, unless the text is its decoder's.
    wanted = [n for n in makers if n == main_input or (n in accepted and n in _towers(config))]
    made: dict[str, Any] = {name: makers[name](config) for name in wanted}
    if any(value is None for value in made.values()):
        return {}
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        made["decoder_input_ids"] = torch.ones(_BATCH, _TARGET_TOKENS, dtype=torch.long)
    if made and hasattr(config, "use_cache"):
        made["use_cache"] = False
    return made


def _towers(config: Any) -> set[str]:
    names = {"text_config": "input_ids", "vision_config": "pixel_values"}
    return {made for attribute, made in names.items() if hasattr(config, attribute)}


def _input_ids(config: Any) -> Tensor:
    return torch.ones(_BATCH, _TOKENS, dtype=torch.long)


def _pixel_values(config: Any) -> Tensor | None:
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None)
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return torch.zeros(_BATCH, getattr(config, "num_channels", 3), height, width)


def _input_features(config: Any) -> Tensor | None:
    bins = getattr(config, "num_mel_bins", None)
    if bins is None:
        return None
    # The two convolutions of an audio stem halve the length once.
    return torch.zeros(_BATCH, bins, 2 * getattr(config, "max_source_positions", 500))


def _input_values(config: Any) -> Tensor:
    return torch.zeros(_BATCH, 4000)


def _home(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)

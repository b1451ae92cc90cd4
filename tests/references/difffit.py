"""DiffFit, figure 3: a gain on what each branch adds; biases and norms are the base's own."""

from typing import Any

import torch


def reference(site: Any, params: Any, h: Any) -> Any:
    return params["gamma"] * h


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    return {"gamma": torch.ones(site.d_h)}


def trained(model: Any) -> set[str]:
    """Every bias, and the gain of every norm."""
    norms = {path for path, module in model.named_modules() if "Norm" in type(module).__name__}
    gains = {f"{path}.weight" for path in norms}
    return {n for n, _ in model.named_parameters() if n.endswith(".bias") or n in gains}


POSITIONS = ("attn", "cross_attn", "ffn")

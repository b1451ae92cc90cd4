"""The folder of a plain model, which `merge` and `convert --merged` write."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def write_plain(model: "nn.Module", output: Path) -> None:
    """Write a plain model's folder beside its place, then rename it.

    Raises:
        PeftError: D604, it cannot be written, or something is there.
    """
    from peftlang.interop.folder import new_folder

    with new_folder(output) as temporary:
        _save(model, temporary)


def _save(model: Any, folder: Path) -> None:
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        return
    from safetensors.torch import save_model

    save_model(model, str(folder / "model.safetensors"))

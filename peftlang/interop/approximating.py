"""An adapter of any method as LoRA: its change of each weight, cut to a rank, with the error."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import base_parameters
from peftlang.diagnostics import PeftError
from peftlang.interop import folder as files
from peftlang.interop.exporting import adapter_called, base_name, task_options
from peftlang.interop.reading import ROOT
from peftlang.interop.targets import as_targets, is_linear, is_transposed
from peftlang.merging import NotMergeable, folded_weights
from peftlang.runtime import registry as state


@dataclass(frozen=True)
class Cut:
    """One weight's change, cut to a rank.

    Attributes:
        path: The module.
        rank: How many singular values were kept.
        error: Frobenius norm of what was cut, relative to the change's; 0 for none.
        size: Frobenius norm of the change, relative to the weight's.
    """

    path: str
    rank: int
    error: float
    size: float


def to_hf_as_lora(
    model: nn.Module,
    folder: str | Path,
    rank: int,
    /,
    *,
    adapter_name: str | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> list[Cut]:
    """Write the change that an adapter makes to each weight as a LoRA of some rank for PEFT.

    By truncated singular value decomposition, the best approximation of that rank. Biases and norms
    that change are written whole.

    Args:
        model: An adapted model.
        folder: Where to; must not exist.
        rank: At least 1; more than a weight has is cut to what it has.
        adapter_name: Which adapter; needed when the model has several.
        example_inputs: As for ``compile``.

    Returns:
        The error at each module; every number is relative.

    Raises:
        NotMergeable: R513, some change is none of weights.
        PeftError: R504, R505, I909 for a rank below 1; D604, it cannot be written.
    """
    if rank < 1:
        raise PeftError(f"there is no rank {rank}", code="I909", help="give at least 1")
    owner = state.of(model)
    name = adapter_called(owner, adapter_name)
    before = owner.active
    owner.activate([name])
    try:
        folded = folded_weights(model, example_inputs)
    finally:
        owner.activate(before)
    if folded.refused:
        raise NotMergeable(folded.refused)
    parts = _Parts(model, rank)
    for parameter, value in folded.parameters.items():
        parts.add(parameter, value)
    files.write(Path(folder), parts.config(), parts.tensors)
    return parts.cuts


class _Parts:
    """The folder as it grows."""

    def __init__(self, model: nn.Module, rank: int) -> None:
        self._model, self._rank = model, rank
        self._parameters = base_parameters(model)
        self.tensors: dict[str, Tensor] = {}
        self.cuts: list[Cut] = []
        self._whole: set[str] = set()

    def add(self, name: str, value: Tensor) -> None:
        """One parameter's new value."""
        path, _, leaf = name.rpartition(".")
        module = self._model.get_submodule(path)
        if leaf == "weight" and is_linear(module):
            self._cut(path, value, transposed=is_transposed(module))
        elif not torch.equal(value, self._parameters[name]):
            self._whole.add(path)
            self.tensors[name] = value

    def _cut(self, path: str, value: Tensor, *, transposed: bool) -> None:
        base = self._parameters[f"{path}.weight"].detach()
        change = value.double() - base.double()
        change = change.transpose(0, 1) if transposed else change
        left, sizes, right = torch.linalg.svd(change, full_matrices=False)
        kept = min(self._rank, len(sizes))
        down = torch.zeros(self._rank, change.shape[1])
        up = torch.zeros(change.shape[0], self._rank)
        down[:kept] = (sizes[:kept].sqrt()[:, None] * right[:kept]).float()
        up[:, :kept] = (left[:, :kept] * sizes[:kept].sqrt()).float()
        self.tensors[f"{ROOT}{path}.lora_A.weight"] = down.to(base.dtype)
        self.tensors[f"{ROOT}{path}.lora_B.weight"] = up.to(base.dtype)
        whole = float(sizes.norm())
        error = float(sizes[kept:].norm()) / whole if whole else 0.0
        self.cuts.append(Cut(path, kept, error, whole / float(base.double().norm())))

    def config(self) -> dict[str, Any]:
        """The options; moves parameters that are kept whole to the keys that these ask for."""
        targets = [cut.path for cut in self.cuts]
        if not targets:
            raise PeftError(
                "the adapter changes the weight of no linear layer",
                code="I909",
                help="export it as it is, or merged: `peftlang convert --merged`",
            )
        biases = [path for path in self._whole if path in targets]
        for path in biases:
            self.tensors[f"{ROOT}{path}.base_layer.bias"] = self.tensors.pop(f"{path}.bias")
        modules = sorted(self._whole - set(targets))
        for path in modules:
            for leaf, own in base_parameters(self._model.get_submodule(path)).items():
                name = f"{path}.{leaf}"
                self.tensors[ROOT + name] = self.tensors.pop(name, own.detach())
        transposed = any(is_transposed(self._model.get_submodule(path)) for path in targets)
        return {
            "peft_type": "LORA",
            "base_model_name_or_path": base_name(self._model),
            **task_options(self._model, "LORA", modules),
            "inference_mode": True,
            "r": self._rank,
            "lora_alpha": self._rank,
            "target_modules": as_targets(targets, self._model),
            "fan_in_fan_out": transposed,
            "bias": "lora_only" if biases else "none",
            **({"modules_to_save": modules} if modules else {}),
        }

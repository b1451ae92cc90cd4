"""Values that the caller supplies at run time, checked against the spec's ``input`` clauses."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from peftlang.diagnostics import PeftError, did_you_mean
from peftlang.ir.method import InputDef

Declared = Mapping[str, tuple[InputDef, Mapping[str, int]]]
"""Inputs by name, with the sizes of the hyper-parameters that their dimensions name."""


def checked(
    declared: Declared, values: Mapping[str, Any], device: torch.device
) -> dict[str, Tensor]:
    """Tensors ``[batch or 1, *dims]`` for the given inputs.

    Args:
        declared: What the active adapters declare.
        values: A number, sequence or tensor for each name: one for all rows, or one per row.
        device: Where the model is.

    Raises:
        PeftError: R512, no active adapter declares the name, or the value does not fit it.
    """
    found = {}
    for name, value in values.items():
        if name not in declared:
            raise PeftError(
                f"no active adapter has an input `{name}`",
                code="R512",
                help=did_you_mean(name, declared)
                or ("they have " + ", ".join(declared) if declared else "they have none"),
            )
        found[name] = _tensor(name, value, *declared[name], device)
    return found


def _tensor(
    name: str, value: Any, entry: InputDef, sizes: Mapping[str, int], device: torch.device
) -> Tensor:
    kind = torch.float32 if entry.kind == "float" else torch.long
    try:
        tensor = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _unfit(name, f"{type(value).__name__} is no tensor: {error}") from error
    if kind is torch.long and tensor.is_floating_point():
        raise _unfit(name, f"whole numbers are wanted, and it is {tensor.dtype}")
    own = [dim.evaluate(sizes) for dim in entry.dims]
    rows = tensor if tensor.dim() > len(own) else tensor.unsqueeze(0)
    if list(rows.shape[1:]) != own:
        wanted = f"[batch{''.join(f', {size}' for size in own)}]"
        raise _unfit(name, f"its shape is {list(tensor.shape)}, and {wanted} or {own} is wanted")
    if entry.kind == "index" and entry.limit is not None and rows.numel():
        limit = entry.limit.evaluate(sizes)
        if bool(((rows < 0) | (rows >= limit)).any()):
            low, high = int(rows.min()), int(rows.max())
            raise _unfit(name, f"{low if low < 0 else high} is not in 0..{limit - 1}")
    return rows.to(kind) if kind is torch.long or not rows.is_floating_point() else rows


def check_rows(values: Mapping[str, Tensor], arguments: Iterable[Any]) -> None:
    """Each input has one row, or as many as the arguments of the call have.

    Raises:
        PeftError: R512.
    """
    many = {name: value.shape[0] for name, value in values.items() if value.shape[0] != 1}
    if not many:
        return
    rows = {value.shape[0] for value in arguments if isinstance(value, Tensor) and value.dim()}
    for name, count in many.items():
        if rows and count not in rows:
            batch = " or ".join(map(str, sorted(rows)))
            raise _unfit(name, f"it has {count} rows, and the batch has {batch}")


def _unfit(name: str, why: str) -> PeftError:
    return PeftError(
        f"the input `{name}` does not fit: {why}",
        code="R512",
        help="give one value for the whole batch, or one per row",
    )

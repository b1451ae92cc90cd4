"""The rows of one role in a fused projection: taken out, and put back."""

from typing import Any

import torch

from peftlang.ir.plan import Rows


def _regular(rows: Rows) -> tuple[int, int, int] | None:
    """(count, offset, length) when the rows are equal runs at equal distances."""
    starts = [start for start, _, _ in rows.runs]
    lengths = {stop - start for start, stop, _ in rows.runs}
    if any(step != 1 for _, _, step in rows.runs) or len(lengths) != 1:
        return None
    count = len(starts)
    if rows.size % count:
        return None
    stride, offset, length = rows.size // count, starts[0], lengths.pop()
    if starts != [offset + i * stride for i in range(count)] or offset + length > stride:
        return None
    return count, offset, length


def select(value: Any, rows: Rows, *, axis: int) -> Any:
    """The rows of a role out of a fused projection's weight, bias or output."""
    regular = _regular(rows)
    if regular is None:
        return torch.cat([value.narrow(axis, i, 1) for i in rows.indices], dim=axis)
    count, offset, length = regular
    if count == 1:
        return value.narrow(axis, offset, length)
    inner = axis + 1 if axis >= 0 else axis
    grouped = value.unflatten(axis, [count, rows.size // count])
    taken = grouped.narrow(inner, offset, length)
    return taken.flatten(axis, axis + 1) if axis >= 0 else taken.flatten(axis - 1, axis)


def scattered(whole: Any, part: Any, rows: Rows, *, axis: int) -> Any:
    """``whole`` with the rows of a role replaced by ``part``."""
    regular = _regular(rows)
    if regular is None:
        return _scattered_singly(whole, part, rows, axis)
    count, offset, length = regular
    stride = rows.size // count
    inner = axis
    if count > 1:
        inner = axis + 1 if axis >= 0 else axis
        whole = whole.unflatten(axis, [count, stride])
        part = part.unflatten(axis, [count, length])
    pieces = [part]
    if offset:
        pieces.insert(0, whole.narrow(inner, 0, offset))
    if offset + length < stride:
        pieces.append(whole.narrow(inner, offset + length, stride - offset - length))
    joined = torch.cat(pieces, dim=inner)
    if count == 1:
        return joined
    return joined.flatten(axis, axis + 1) if axis >= 0 else joined.flatten(axis - 1, axis)


def _scattered_singly(whole: Any, part: Any, rows: Rows, axis: int) -> Any:
    place = {row: i for i, row in enumerate(rows.indices)}
    pieces = [
        part.narrow(axis, place[i], 1) if i in place else whole.narrow(axis, i, 1)
        for i in range(rows.size)
    ]
    return torch.cat(pieces, dim=axis)

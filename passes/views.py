"""A site's names as values of the language: laid out ``[*implicit, *dims]``, and back."""

from typing import Any

import torch
from torch.fx import Node

from peftlang.ir.plan import Rows, Site
from peftlang.ir.types import Type
from peftlang.passes.occurrence import Occurrence
from peftlang.passes.rewriting import Emission, SlotReads
from peftlang.passes.tokens import Sequence


class SiteView:
    """Reads and writes the names in scope at one occurrence of a site.

    Subclasses know where features, heads and keys stand in the captured tensors.

    Attributes:
        known: A name that has a value for each token and is there when this step is written.
    """

    known = "h"

    def __init__(self, occurrence: Occurrence, emission: Emission, reads: SlotReads) -> None:
        self.occurrence, self.emission, self.reads = occurrence, emission, reads
        self._written: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """The current value of ``name``: what this site's earlier compositions made it."""
        if name not in self._written:
            self._written[name] = self.read(name)
        return self._written[name]

    def set(self, name: str, value: Any) -> None:
        """Give ``name`` a new value for the compositions that follow."""
        self._written[name] = value

    def node(self, name: str) -> Node:
        return self.occurrence.values[name]

    def read(self, name: str) -> Any:
        """The captured value of ``name``, laid out for the language."""
        return self.emission.proxy(self.node(name))

    def commit(self, target: str) -> None:
        """Let the graph read the new value of ``target``."""
        readers = self.occurrence.readers.get(target, ())
        self.emission.replace(self.node(target), self.restored(target), only_in=readers)

    def restored(self, target: str) -> Any:
        """The new value of ``target`` in the captured layout."""
        return self._written[target]

    def current(self, name: str) -> Node:
        """The node of the current value of ``name`` in the captured layout."""
        if name not in self._written:
            return self.node(name)
        node: Node = self.restored(name).node
        return node

    def recompute(self) -> None:
        """Compute ``h`` from the current ``x``, and from the weights that the site will have."""
        bias = self.read("b") if "b" in self.occurrence.values else None
        self.set("h", torch.nn.functional.linear(self.get("x"), self.read("W"), bias))

    def dtype(self, name: str) -> torch.dtype | None:
        """The number type that ``name`` has in the graph, if it is known."""
        value = self.node(name).meta.get("example_value")
        return value.dtype if isinstance(value, torch.Tensor) else None

    @property
    def sequence(self) -> Sequence:
        """The site's tokens, for builtins that ask where they lie or which they are."""
        return Sequence(self)

    def token_mask(self, keywords: dict[str, Any]) -> Any:
        """1 for the first and last tokens of the prompt (``tokens(first, last)``), ``[B, T]``."""
        return self.sequence.token_mask(keywords)

    def average(self, value: Any, have: Type) -> Any:
        """The mean over the real tokens of all rows (``mean(x, over batch)``)."""
        from peftlang.passes.tokens import Sequence

        return Sequence(self).average(value, have)


class ProjectionView(SiteView):
    """A projection: weights may be stored transposed, and a role may be a slice of rows."""

    def read(self, name: str) -> Any:
        value = super().read(name)
        site = self.occurrence.site
        if name == "W" and site.transposed:
            value = value.transpose(0, 1)
        if name == "h" and self.occurrence.layout.get("h") == "bchw":
            value = value.movedim(1, -1)
        if self._is_slice(name):
            value = select(value, _rows(site), axis=0 if name == "W" else -1)
        return value

    def _is_slice(self, name: str) -> bool:
        occurrence = self.occurrence
        sliced = occurrence.site.rows is not None and not occurrence.sliced
        return sliced and name in {"h", "W", "b"}

    def restored(self, target: str) -> Any:
        value, site = self._written[target], self.occurrence.site
        if self._is_slice(target):
            whole = self.emission.proxy(self.node(target))
            if target == "W" and site.transposed:
                whole = whole.transpose(0, 1)
            value = scattered(whole, value, _rows(site), axis=0 if target == "W" else -1)
        if target == "W" and site.transposed:
            value = value.transpose(0, 1)
        if target == "h" and self.occurrence.layout.get("h") == "bchw":
            value = value.movedim(-1, 1)
        return value


def _rows(site: Site) -> Rows:
    assert site.rows is not None
    return site.rows


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

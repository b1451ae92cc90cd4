"""How HF PEFT splits the sizes of a weight for LoKr (``peft/tuners/lokr/layer.py``)."""

from collections.abc import Mapping
from dataclasses import dataclass

from peftlang.ir.expr import Scalar


def factorised(size: int, factor: int) -> tuple[int, int]:
    """Two numbers whose product is ``size``: the first is ``factor`` where it divides."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    divisors = (m for m in range(1, size + 1) if size % m == 0 and m <= limit and m * m <= size)
    first = max(divisors, default=1)
    return first, size // first


def factor_for(hypers: Mapping[str, Scalar], sizes: Mapping[str, int]) -> int | None:
    """The `decompose_factor` under which a weight is split as these factors are; None for none."""
    rows = int(hypers.get("p", hypers.get("f", 0)))
    columns = int(hypers.get("q", hypers.get("f", 0)))
    for factor in dict.fromkeys((-1, rows, columns, max(rows, columns))):
        split = factorised(sizes["d_h"], factor)[0], factorised(sizes["d_x"], factor)[0]
        if split == (rows, columns):
            return factor
    return None


@dataclass(frozen=True)
class Splits:
    """Whether the other library, left to itself, makes tensors of the same shapes.

    Attributes:
        full: The first factor is one matrix.
        low: The second factor is a product of two.
    """

    full: bool
    low: bool

    def __call__(self, hypers: Mapping[str, Scalar], sizes: Mapping[str, int]) -> str:
        """Why it would not; "" where it would."""
        factor = factor_for(hypers, sizes)
        if factor is None:
            return "splits the weight as no `decompose_factor` does"
        rows, columns = factorised(sizes["d_h"], factor), factorised(sizes["d_x"], factor)
        rank = int(hypers["r"])
        if self.low != (rank < max(rows[1], columns[1]) / 2):
            own, theirs = ("a product", "whole") if self.low else ("whole", "a product")
            return f"has a second factor that is {own}, and at this rank PEFT has it {theirs}"
        if not self.full and rank >= max(rows[0], columns[0]) / 2:
            return "has a first factor that is a product, and at this rank PEFT has it whole"
        return ""

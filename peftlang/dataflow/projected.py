"""The weight that makes an attention product's keys or values."""

from dataclasses import dataclass

from peftlang.dataflow.attention import Attention
from peftlang.dataflow.flow import Flow, shape_of
from peftlang.dataflow.slices import as_rows, rows_reaching
from peftlang.dataflow.weights import WeightUse
from peftlang.ir.plan import Rows


@dataclass(frozen=True, slots=True)
class Weight:
    """A projection's weight and bias.

    Attributes:
        weight: Qualified name of the whole weight.
        bias: Qualified name of the whole bias.
        transposed: W is stored ``[d_x, d_h]``.
        rows: The rows that make the part asked for; None for all.
    """

    weight: str
    bias: str | None
    transposed: bool
    rows: Rows | None


def projected(flow: Flow, found: Attention, part: str) -> Weight | None:
    """The weight that makes ``part`` (``k`` or ``v``), with its rows where it makes others too.

    Args:
        flow: The graph as captured.
        found: The product.
        part: Which of its operands.

    Returns:
        None where no projection, or more than one, makes it: a cache holds it, or another layer.
    """
    uses = found.sources[part]
    if len(uses) != 1:
        return None
    use = uses[0]
    shared = [name for name in "qkv" if use in found.sources[name]]
    rows = _rows(flow, found, use, part) if len(shared) > 1 else None
    if len(shared) > 1 and rows is None:
        return None
    if rows is None and use.rows is not None:
        rows = Rows(runs=((*use.rows, 1),), size=int(shape_of(use.w)[0]))
    return Weight(use.weight, use.bias, use.transposed, rows)


def _rows(flow: Flow, found: Attention, use: WeightUse, part: str) -> Rows | None:
    reached = rows_reaching(flow, use.h, [found.parts[part]])
    return as_rows(reached[0], use.width) if reached else None

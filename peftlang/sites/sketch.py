"""What is known of a model's places while they are being named."""

from dataclasses import dataclass, field

from torch.fx import Node

from peftlang.dataflow.attention import Attention
from peftlang.dataflow.flow import shape_of
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.residual import Joint
from peftlang.dataflow.weights import WeightUse
from peftlang.ir.plan import Rows


@dataclass
class Draft:
    """A site before its place among the layers is known.

    Attributes:
        role: What it does.
        path: Its module.
        at: Its place in the graph.
        use: Its weight.
        rows: The rows of it that are meant; None for all.
        anchors: Names of weights by which it is found again.
        dims: Sizes.
    """

    role: str
    path: str
    at: int
    use: WeightUse | None = None
    rows: Rows | None = None
    anchors: tuple[str, ...] = ()
    dims: dict[str, int] = field(default_factory=dict)


@dataclass
class Found:
    """A residual branch with the weights that find it again: the last of it, and its first."""

    path: str
    role: str | None
    joint: Joint
    at: int
    anchor: str
    attention: Attention | None = None


@dataclass
class Sketch:
    """What was found so far in one graph.

    Attributes:
        reading: What the graph's nodes are.
        drafts: Sites by key, in the order in which they were found.
        branches: Residual branches.
        named: Projections that have a role.
    """

    reading: Reading
    drafts: dict[str, Draft] = field(default_factory=dict)
    branches: list[Found] = field(default_factory=list)
    named: set[Node] = field(default_factory=set)

    def place(self, node: Node) -> int:
        """A node's place in the graph."""
        return self.reading.flow.order[node]

    def add(self, draft: Draft) -> None:
        """Keep a draft, once for each place: a layer that runs twice is one site."""
        key = f"{draft.path}#{draft.role}"
        if "expert" in draft.dims:
            key = f"{key}[{draft.dims['expert']}]"
        taken = self.drafts.get(key)
        if taken and (taken.anchors, taken.rows) != (draft.anchors, draft.rows):
            own = draft.anchors[0].removeprefix(draft.path + ".").removesuffix(".weight")
            rows = f":{draft.rows.runs[0][0]}" if draft.rows else ""
            key = f"{key}[{own}{rows}]"
        self.drafts.setdefault(key, draft)

    def add_projection(self, role: str, use: WeightUse, more: dict[str, int] | None = None) -> None:
        """Keep a projection that has a role, or the rows of it that have."""
        rows = self.reading.rows.get((use.call, role.rpartition(".")[2]), own_rows(use))
        self.named.add(use.call)
        dims = {"d_x": width(use.x), "d_h": rows.count if rows else use.width, **(more or {})}
        owner = self.reading.owner(use)
        self.add(Draft(role, owner, self.place(use.call), use, rows, (use.weight,), dims))


def width(node: Node) -> int:
    """The size of a node's last dimension."""
    shape = shape_of(node)
    return int(shape[-1]) if shape else 0


def rows_within(rows: Rows | None, use: WeightUse) -> Rows | None:
    """Rows of the whole parameter, where the graph applies a slice of it."""
    if use.rows is None:
        return rows
    start = use.rows[0]
    runs = rows.runs if rows else ((0, use.width, 1),)
    size = int(shape_of(use.w)[0])
    return Rows(runs=tuple((a + start, b + start, step) for a, b, step in runs), size=size)


def own_rows(use: WeightUse) -> Rows | None:
    """The rows of the whole parameter that the graph applies; None for all."""
    return rows_within(None, use)


def last_weight(reading: Reading, anchor: str, start: Node, join: Joint) -> str:
    """The weight that makes what a branch adds: its last projection's, or its own last norm's."""
    norms = reading.norms_between(start, join.h)
    return norms[-1].weight if norms else anchor

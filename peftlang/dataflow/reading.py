"""All that is read off one graph, computed once and shared by `roles` and `locate`."""

from functools import cached_property

from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.dataflow.attention import Attention, attentions
from peftlang.dataflow.flow import Flow
from peftlang.dataflow.weights import WeightUse, weight_uses
from peftlang.ir.plan import Rows


class Reading:
    """One graph: its flow, the uses of weights in it, its attention products."""

    def __init__(self, graph: CapturedGraph) -> None:
        self.graph = graph
        self.flow = Flow(graph)
        self.uses: list[WeightUse] = weight_uses(self.flow)
        self.by_result: dict[Node, WeightUse] = {
            use.call: use for use in self.uses if use.kind == "projection"
        }
        # Rows of a projection by (call, part), filled in as parts are found.
        self.rows: dict[tuple[Node, str], Rows | None] = {}

    @classmethod
    def of(cls, graph: CapturedGraph) -> "Reading":
        """The one reading of a graph, which is kept with it."""
        if cls not in graph.derived:
            graph.derived[cls] = cls(graph)
        kept: Reading = graph.derived[cls]
        return kept

    @cached_property
    def attentions(self) -> list[Attention]:
        return attentions(self.flow, self.by_result.values())

    @cached_property
    def by_weight(self) -> dict[str, list[WeightUse]]:
        found: dict[str, list[WeightUse]] = {}
        for use in self.uses:
            found.setdefault(use.weight, []).append(use)
        return found

    def using(self, weight: str, *kinds: str) -> list[WeightUse]:
        """The uses of one parameter, of these kinds."""
        return [use for use in self.by_weight.get(weight, ()) if use.kind in kinds]

    def norms_between(self, start: Node, end: Node) -> list[WeightUse]:
        """Norms on the way from one node to a later one."""
        order = self.flow.order
        between = (
            use
            for use in self.uses
            if use.kind == "norm" and order[start] < order[use.call] <= order[end]
        )
        return [
            use
            for use in between
            if self.flow.is_ancestor(start, use.x) and self.flow.is_ancestor(use.h, end)
        ]

    def owner(self, use: WeightUse) -> str:
        """Path of the module that applies the weight: one that has it as its own attribute."""
        facts = self.graph.facts
        for path in reversed(facts.module_paths(use.call)):
            if use.weight in facts.names.owned.get(path, ()):
                return path
        return use.weight.rpartition(".")[0]


def applied_parameters(graph: CapturedGraph) -> frozenset[str]:
    """Names of the parameters that operations of this graph read."""
    parameters = graph.facts.parameters.items()
    return frozenset(
        name for node, name in parameters if any(user.op != "output" for user in node.users)
    )

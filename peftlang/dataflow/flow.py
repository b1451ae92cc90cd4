"""The flow of tensors through one graph: who reads what, where paths part and where they meet."""

import heapq
from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.fx import Node

from peftlang.capture import CapturedGraph, GraphFacts
from peftlang.capture.facts import VALUE
from peftlang.capture.mutation import operands_written
from peftlang.dataflow.ops import CASTS, VIEWS, mutates, name_of


class Flow:
    """A graph as edges between tensors.

    Writes into a tensor (``index_copy_`` into a cache) are edges to its later readers; sizes,
    which under dynamic shapes are nodes of their own, are not edges.
    """

    def __init__(self, graph: CapturedGraph) -> None:
        self.graph = graph
        self.facts: GraphFacts = graph.facts
        self.order: dict[Node, int] = {}
        self.operands: dict[Node, list[Node]] = {}
        self.readers: dict[Node, list[Node]] = {}
        self._link()
        self.live = self._fed_by_inputs()

    def _link(self) -> None:
        writers: dict[Node, list[Node]] = {}
        for index, node in enumerate(self.graph.graph.nodes):
            self.order[node] = index
            self.readers[node] = []
            operands: list[Node] = []
            for operand in node.all_input_nodes:
                if carries_tensor(operand):
                    operands += [operand, *writers.get(self.storage(operand), ())]
            self.operands[node] = list(dict.fromkeys(operands))
            for operand in self.operands[node]:
                self.readers[operand].append(node)
            for operand in operands_written(node):
                writers.setdefault(self.storage(operand), []).append(node)

    def _fed_by_inputs(self) -> set[Node]:
        live: set[Node] = set()
        for node in self.order:
            if node.op == "placeholder":
                if carries_tensor(node) and not self.is_weight(node):
                    live.add(node)
            elif any(operand in live for operand in self.operands[node]):
                live.add(node)
        return live

    def storage(self, node: Node) -> Node:
        """The tensor that a chain of views looks into."""
        while name_of(node) in VIEWS | {"getitem"} and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return node

    def is_weight(self, node: Node) -> bool:
        """Whether the node is a parameter or a buffer of the model."""
        return node in self.facts.parameters or node in self.facts.buffers

    def parameter(self, node: Node) -> str | None:
        """Name of the parameter that a node is, looking through casts and views."""
        return self.facts.parameter_of(self.source(node))

    def source(self, node: Node, through: frozenset[str] = CASTS | VIEWS) -> Node:
        """What a chain of casts and views starts from."""
        while name_of(node) in through and self.operands[node]:
            node = self.operands[node][0]
        return node

    def is_ancestor(self, ancestor: Node, node: Node) -> bool:
        """Whether there is a path from `ancestor` to `node`; a node is its own ancestor."""
        return any(found is ancestor for found in self.ancestors([node], self.order[ancestor]))

    def ancestors(self, nodes: Iterable[Node], first: int = 0) -> Iterator[Node]:
        """The nodes and all that they are made from, not looking before position `first`."""
        stack = list(nodes)
        seen = set(stack)
        while stack:
            node = stack.pop()
            yield node
            for operand in self.operands[node]:
                if operand not in seen and self.order[operand] >= first:
                    seen.add(operand)
                    stack.append(operand)

    def backward(self, start: Node, stops: set[Node]) -> tuple[list[Node], list[Node]]:
        """Walk back from `start` until `stops`: (the stops that were met, the nodes passed)."""
        met: list[Node] = []
        passed: list[Node] = []
        stack, seen = [start], {start}
        while stack:
            node = stack.pop()
            if node in stops:
                met.append(node)
                continue
            passed.append(node)
            for operand in self.operands[node]:
                if operand not in seen:
                    seen.add(operand)
                    stack.append(operand)
        return sorted(met, key=self.order.__getitem__), passed

    def spine(self, start: Node) -> Iterator[tuple[Node, set[Node]]]:
        """The nodes that every path from `start` goes through, in order, without `start`.

        With each comes the set of all nodes met so far that `start` flows into (and `start`).
        """
        reached = {start}
        heap = [(self.order[r], r) for r in self.readers[start] if r.op != "output"]
        heapq.heapify(heap)
        while heap:
            _, node = heapq.heappop(heap)
            if node in reached:
                continue
            reached.add(node)
            while heap and heap[0][1] is node:
                heapq.heappop(heap)
            if not heap:
                yield node, reached
            for reader in self.readers[node]:
                if reader.op != "output" and reader not in reached:
                    heapq.heappush(heap, (self.order[reader], reader))

    def meet(self, nodes: Iterable[Node]) -> Node | None:
        """The last node that every backward path over live tensors from `nodes` goes through."""
        heap = [(-self.order[n], n) for n in dict.fromkeys(nodes)]
        heapq.heapify(heap)
        seen = {n for _, n in heap}
        while heap:
            _, node = heapq.heappop(heap)
            if not heap:
                return node
            for operand in self.operands[node]:
                if operand in self.live and operand not in seen:
                    seen.add(operand)
                    heapq.heappush(heap, (-self.order[operand], operand))
        return None


def carries_tensor(node: Node) -> bool:
    """Whether the node's value is a tensor or holds tensors, or writes into one."""
    value = node.meta.get(VALUE)
    if isinstance(value, tuple | list):
        return any(isinstance(item, Tensor) for item in value)
    return isinstance(value, Tensor) or node.op == "get_attr" or mutates(node)


def shape_of(node: Node) -> tuple[int, ...]:
    """The tensor's shape; sizes may be symbolic. Empty for what is no tensor."""
    value = node.meta.get(VALUE)
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def is_float(node: Node) -> bool:
    """Whether the node is a tensor of floating-point numbers."""
    value = node.meta.get(VALUE)
    return isinstance(value, Tensor) and value.is_floating_point()

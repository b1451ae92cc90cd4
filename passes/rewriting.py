"""What the graph passes share while they rewrite one graph that Dynamo captured."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer

from peftlang.capture import CapturedGraph
from peftlang.ir.plan import Plan
from peftlang.passes.grids import Grid, grids
from peftlang.passes.occurrence import Located

SLOT = "peftlang_slot"
"""Key of ``node.meta`` that marks a read of an adapter's value, and names it."""


@dataclass(frozen=True)
class ActivePlan:
    """An adapter that is switched on, by the name it has on the model."""

    name: str
    plan: Plan


@dataclass
class Rewriting:
    """One captured graph on its way through the graph passes.

    Attributes:
        graphs: The graph and those nested in it, outermost first.
        active: Adapters in the order in which they act.
        slots: Gives a value that an adapter may read by its slot name: ``adapter.group`` for
            tensors, ``input.name`` for values that the caller supplies.
        training: Whether the module at a path is in training mode.
        given: Names of the slots that hold values of this call, which another may not have.
        located: Where the sites run, one entry per graph; set by ``roles``.
        exported: Names of the outputs that ``insert`` put behind the graph's own.
        lifted: Slot names of the inputs that ``lift`` put before the graph's own.
    """

    graphs: list[CapturedGraph]
    active: tuple[ActivePlan, ...]
    slots: Callable[[str], Tensor]
    training: Callable[[str], bool] = lambda _path: False
    given: frozenset[str] = frozenset()
    located: list[Located] = field(default_factory=list)
    exported: list[str] = field(default_factory=list)
    lifted: list[str] = field(default_factory=list)

    @property
    def outermost(self) -> CapturedGraph:
        return self.graphs[0]


class SlotReads:
    """Reads of adapter values in one graph, one node per slot, placed before all that compute.

    Args:
        graph: The captured graph; the values become attributes of its module until ``lift``.
        work: Gives the value of a slot, and says which this call has.
        prefix: What the attributes' names begin with; another for each reader of one graph.
    """

    def __init__(self, graph: CapturedGraph, work: Rewriting, *, prefix: str = "peftlang") -> None:
        self._gm, self._slots, self._prefix = graph.gm, work.slots, prefix
        self.given, self.sizes, self._work = work.given, graph.sizes, work
        self._nodes: dict[str, Node] = {}

    def __call__(self, name: str) -> Node:
        if name not in self._nodes:
            attribute = f"{self._prefix}_{len(self._nodes)}"
            hold(self._gm, attribute, self._slots(name))
            graph = self._gm.graph
            with graph.inserting_before(_first_computing(graph)):
                node = graph.get_attr(attribute)
            node.meta[SLOT] = name
            node.meta["example_value"] = self._slots(name)
            self._nodes[name] = node
        return self._nodes[name]

    def value(self, name: str) -> Tensor:
        return self._slots(name)

    @property
    def active(self) -> tuple[ActivePlan, ...]:
        """The adapters that act."""
        return self._work.active

    @property
    def grids(self) -> list[Grid]:
        """The grids of patches that the call's graphs show."""
        return [found for graph in self._work.graphs for found in grids(graph)]


def hold(gm: GraphModule, attribute: str, value: Tensor) -> None:
    """Make ``value`` an attribute of a graph's module, as what it is."""
    if isinstance(value, nn.Parameter):
        gm.register_parameter(attribute, value)
    else:
        gm.register_buffer(attribute, value, persistent=False)


def _first_computing(graph: Graph) -> Node:
    found: Node = next(n for n in graph.nodes if n.op != "placeholder" and SLOT not in n.meta)
    return found


class _Recorder(GraphAppendingTracer):
    """A tracer that keeps the set of nodes that it made."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.made: set[Node] = set()

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        node = super().create_node(*args, **kwargs)
        self.made.add(node)
        return node


class Emission:
    """Writes torch operations into a graph at one point, and remembers what it wrote.

    Args:
        after: The node after which the operations come.
        earlier: What was written for the same call before; it reads what is replaced here.
    """

    def __init__(self, after: Node, earlier: AbstractSet[Node] = frozenset()) -> None:
        self.graph, self._earlier = after.graph, earlier
        self._point = self.graph.inserting_before(after.next)
        self._tracer = _Recorder(self.graph)

    @property
    def made(self) -> set[Node]:
        """The nodes written so far."""
        return self._tracer.made

    def __enter__(self) -> Self:
        self._point.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:  # noqa: PYI036 -- handed on as they are
        self._point.__exit__(*exc)

    def proxy(self, node: Node) -> Proxy:
        return Proxy(node, self._tracer)

    def stand_in(self, mark: Callable[..., Any], node: Node) -> Node:
        """A call of ``mark`` on a node, which says what the node says of itself."""
        proxy = self._tracer.create_proxy("call_function", mark, (self.proxy(node),), {})
        proxy.node.meta.update(node.meta)
        return proxy.node

    def replace(self, old: Node, new: Any, *, only_in: tuple[Node, ...] = ()) -> None:
        """Let the users of ``old`` read ``new``, but for the operations written here.

        Args:
            old: The node whose value changes.
            new: The proxy of the value in its place.
            only_in: Restrict the change to these users.
        """
        for user in list(old.users):
            concerned = not only_in or user in only_in or user in self._earlier
            if user not in self._tracer.made and concerned:
                user.replace_input_with(old, new.node)

"""Recorded models, and what their nodes are on real weights and inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils._pytree import tree_leaves, tree_unflatten

from peftlang.capture import CapturedGraph, record
from peftlang.dataflow.multihead import write_out
from peftlang.ir.plan import Site
from peftlang.models import build, example_inputs
from peftlang.sites.inference import find_sites
from peftlang.sites.locate import locate
from peftlang.sites.occurrence import Located, Occurrence


def recorded(
    model: nn.Module, inputs: Mapping[str, Any], *, training: bool = False
) -> CapturedGraph:
    """A call with attention in view."""
    graph = record(model, inputs, training=training)
    write_out(graph.graph, graph.calls)
    return graph


def positions(model: nn.Module, inputs: dict[str, Any] | None = None) -> list[Site]:
    return find_sites(recorded(model, inputs or example_inputs(model)))


def real_inputs(model: nn.Module, seed: int = 0) -> dict[str, Any]:
    """The example inputs with values that differ from token to token."""
    made = torch.Generator().manual_seed(seed)

    def real(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point():
            return torch.randn(value.shape, generator=made)
        return torch.randint(3, 150, value.shape, generator=made)

    return {name: real(value) for name, value in example_inputs(model).items()}


class _Values(Interpreter):
    def __init__(self, graph: CapturedGraph) -> None:
        super().__init__(GraphModule(nn.Module(), graph.graph), garbage_collect_values=False)
        self.seen: dict[Node, Tensor] = {}
        self._own = dict(zip(self.graph.nodes, graph.graph.nodes, strict=True))

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.seen[self._own[n]] = value.detach().clone()
        return value


def computed(
    graph: CapturedGraph, model: nn.Module, inputs: Mapping[str, Any]
) -> tuple[Any, dict[Node, Tensor]]:
    """What a recorded call gives with the model's weights, and what each node is."""
    given = iter({id(x): x for x in tree_leaves(inputs) if isinstance(x, Tensor)}.values())
    values: list[Any] = []
    for node in graph.graph.find_nodes(op="placeholder"):
        if name := graph.facts.parameter_of(node):
            values.append(model.get_parameter(name))
        elif name := graph.facts.buffer_of(node):
            values.append(model.get_buffer(name))
        else:
            values.append(graph.constants[node] if node in graph.constants else next(given))
    run = _Values(graph)
    made = iter(run.run(*values))
    leaves, form = graph.result
    result = tree_unflatten([next(made) if isinstance(x, Node) else x for x in leaves], form)
    return result, run.seen


@dataclass
class Run:
    """What `locate` said of a graph, and what the nodes were when they ran."""

    located: Located = field(default_factory=Located)
    values: dict[Node, Tensor] = field(default_factory=dict)

    @property
    def found(self) -> dict[str, list[Occurrence]]:
        return self.located.found

    @property
    def missing(self) -> list[str]:
        return [f"{m.site.id}: {m.reason}" for m in self.located.missing]

    def value(self, occurrence: Occurrence, name: str) -> Tensor:
        return self.values[occurrence.values[name]]


def watched(
    model: nn.Module, sites: Sequence[Site], inputs: Mapping[str, Any], *, training: bool = False
) -> Run:
    """Locate sites in a call of the model, and compute all of its nodes."""
    graph = recorded(model, inputs, training=training)
    with torch.no_grad():
        _, values = computed(graph, model, inputs)
    return Run(locate(graph, list(sites)), values)


def made(preset: str, attention: str = "sdpa") -> tuple[nn.Module, list[Site]]:
    model = build(preset, attn_implementation=attention)  # type: ignore[arg-type]
    return model, positions(model)

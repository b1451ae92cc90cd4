"""Models run through TorchDynamo with `locate` at work on every graph, values recorded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from peftlang.capture import ModelNames, capture, fastpath_disabled, graphs_of
from peftlang.ir.plan import Site
from peftlang.models import build, example_inputs
from peftlang.passes.decompose import write_out
from peftlang.passes.roles import roles
from peftlang.sites.locate import locate
from peftlang.sites.occurrence import Located, Occurrence


def positions(model: nn.Module, inputs: dict[str, Any] | None = None) -> list[Site]:
    graphs = capture(model, inputs or example_inputs(model))
    for graph in graphs:
        write_out(graph)
    return roles(graphs)


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


@dataclass
class Run:
    """What `locate` said of every graph in turn, and what the nodes were when they ran."""

    located: list[Located] = field(default_factory=list)
    values: dict[Node, Tensor] = field(default_factory=dict)

    def found(self) -> dict[str, list[Occurrence]]:
        merged: dict[str, list[Occurrence]] = {}
        for located in self.located:
            for name, occurrences in located.found.items():
                merged.setdefault(name, []).extend(occurrences)
        return merged

    def missing(self) -> list[str]:
        return [f"{m.site.id}: {m.reason}" for located in self.located for m in located.missing]

    def value(self, occurrence: Occurrence, name: str) -> Tensor:
        return self.values[occurrence.values[name]]


class _Recorder(Interpreter):
    def __init__(self, module: Any, values: dict[Node, Tensor]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.seen = values

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.seen[n] = value.detach().clone()
        return value


def watched(
    model: nn.Module,
    sites: Sequence[Site],
    call: Callable[[Callable[..., Any]], Any],
    *,
    gradients: bool = False,
) -> Run:
    """Let ``call(backend)`` run the model with a backend that locates `sites` in every graph."""
    run = Run()

    def backend(gm: Any, inputs: list[Any]) -> Callable[..., Any]:
        graphs = graphs_of(gm, inputs, ModelNames.of(model))
        for graph in graphs:
            write_out(graph)
        run.located += [locate(graph, sites) for graph in graphs]
        return _Recorder(gm, run.values).run

    torch._dynamo.reset()
    with fastpath_disabled(), torch.set_grad_enabled(gradients):
        call(backend)
    return run


def made(preset: str, attention: str = "sdpa") -> tuple[nn.Module, list[Site]]:
    model = build(preset, attn_implementation=attention)  # type: ignore[arg-type]
    return model, positions(model)

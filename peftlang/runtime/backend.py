"""The backend that Dynamo hands its graphs to: rewrite, then run by the inner backend."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch import Tensor
from torch.fx import GraphModule

from peftlang.capture import (
    CapturedGraph,
    Sizes,
    copied,
    graph_inputs,
    graphs_of,
    inner_backend,
    stand_in,
)
from peftlang.diagnostics import PeftError
from peftlang.passes.prompts import PROMPT
from peftlang.passes.rewriting import Rewriting
from peftlang.passes.streams import STREAM
from peftlang.passes.tokens import PLACES

if TYPE_CHECKING:
    from peftlang.runtime.adapted import Adapted


class GraphBackend:
    """Rewrites each captured graph of one adapted model.

    The rewritten graph takes adapter tensors as inputs before its own. They are looked up at
    every call, so a tensor that was moved, loaded or replaced is the one that is used.
    """

    def __init__(self, adapted: "Adapted") -> None:
        self._adapted = adapted
        self.graphs = 0
        self._runners: WeakSet[_Runner] = WeakSet()

    def __call__(self, gm: GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        runner = _Runner(self, gm, example_inputs)
        self._runners.add(runner)
        return runner

    def rewritten(self, gm: GraphModule, example_inputs: Sequence[Any]) -> "_Variant":
        """A copy of a graph with the active adapters in it, for these parameters."""
        adapted = self._adapted
        twin, inputs = copied(gm), graph_inputs(gm)
        graphs = graphs_of(twin, example_inputs, adapted.names())
        known = _parameters(graphs[0], example_inputs)
        work = Rewriting(
            graphs, adapted.active_plans(), adapted.slot, adapted.training, frozenset(adapted.given)
        )
        adapted.rewrite(work)
        inner = adapted.inner
        values = [(name, adapted.slot(name)) for name in work.lifted]
        slots = [
            stand_in(value, inputs, _varying(name, value)) if inner != "eager" else value
            for name, value in values
        ]
        run = (inner_backend(inner) if isinstance(inner, str) else inner)(
            twin, [*slots, *example_inputs]
        )
        readers = [adapted.reader(name) for name in work.lifted]
        run = _receiving(run, work.exported, adapted.receive) if work.exported else run
        return _Variant(run, readers, known, adapted.variant, _changed(work), graphs[0].sizes)

    def runs(self, name: str) -> int:
        """How often graphs ran that hold the site, or trained parameter, of this name."""
        variants = (variant for runner in self._runners for variant in runner.variants)
        return sum(variant.runs for variant in variants if name in variant.changed)

    def forget(self, adapter: str) -> None:
        """Drop the graphs in which an adapter acts that is no more."""
        for runner in self._runners:
            runner.variants = [v for v in runner.variants if adapter not in v.acting.split("+")]

    def concerns(self, names: Sequence[str | None]) -> bool:
        """Whether an active adapter acts where one of these parameters is used."""
        return not self._adapted.active_parameters().isdisjoint(names)

    @property
    def acting(self) -> str:
        """Which adapters act now."""
        return self._adapted.variant

    @property
    def names(self) -> dict[int, str]:
        """Names of the base's parameters by identity, as they are now."""
        return self._adapted.names().parameters

    @property
    def is_eager(self) -> bool:
        return self._adapted.inner == "eager"


def _receiving(
    run: Callable[..., Any], names: Sequence[str], receive: Callable[[str, Tensor], None]
) -> Callable[..., Any]:
    """A graph's own outputs; those behind them go to who asked for them."""

    def received(*inputs: Any) -> Any:
        outputs = run(*inputs)
        for name, value in zip(names, outputs[-len(names) :], strict=True):
            receive(name, value)
        return outputs[: -len(names)]

    return received


def _varying(slot: str, value: Tensor) -> int:
    """How many of a slot's first sizes are the call's own: its rows, and its tokens."""
    if slot.startswith((PLACES, STREAM)):
        return 2
    rows = slot.startswith("input.") or (slot == PROMPT and value.dim() == 3)
    return 1 if rows else 0


def _changed(work: Rewriting) -> frozenset[str]:
    """Sites, and parameters with trained copies, that the active adapters change in a graph."""
    sites = {site for located in work.located for site in located.found}
    used = {name for graph in work.graphs for name in graph.facts.parameters.values()}
    trained = {name for active in work.active for name in active.plan.train}
    return frozenset(sites | (used & trained))


def _parameters(
    graph: CapturedGraph, example_inputs: Sequence[Any]
) -> tuple[tuple[int, str, Any], ...]:
    """(position, name, parameter) of the graph's inputs that are base parameters."""
    pairs = zip(graph.gm.graph.find_nodes(op="placeholder"), example_inputs, strict=True)
    return tuple(
        (index, name, value)
        for index, (node, value) in enumerate(pairs)
        if (name := graph.facts.parameter_of(node)) is not None
    )


class _Variant:
    """One rewriting of a graph: for the parameters that it was rewritten for."""

    def __init__(
        self,
        run: Callable[..., Any],
        readers: list[Callable[[], Tensor]],
        parameters: tuple[tuple[int, str | None, Any], ...],
        acting: str,
        changed: frozenset[str],
        sizes: Sizes,
    ) -> None:
        self._run, self._readers, self.acting, self._sizes = run, readers, acting, sizes
        self.changed, self.runs = changed, 0
        self.names = tuple(name for _, name, _ in parameters)
        self.known = [(index, value) for index, _, value in parameters]

    def with_parameters(self, parameters: tuple[tuple[int, str | None, Any], ...]) -> "_Variant":
        """The same code, for other parameters."""
        return _Variant(
            self._run, self._readers, parameters, self.acting, self.changed, self._sizes
        )

    def fits(self, inputs: Sequence[Any]) -> bool:
        known = all(inputs[index] is value for index, value in self.known)
        return known and self.has_sizes_of(inputs)

    def has_sizes_of(self, inputs: Sequence[Any]) -> bool:
        """Whether the sizes that went into the code are those of a call."""
        return self._sizes.fit(inputs)

    def __call__(self, inputs: Sequence[Any]) -> Any:
        self.runs += 1
        return self._run(*[read() for read in self._readers], *inputs)


class _Runner:
    """What Dynamo calls in place of a graph that it recorded.

    Modules that share code may share a graph: after a graph break, the one recorded for the
    first layer also runs the others, with their parameters. Which adapters act is decided by
    the parameters that are passed, never by where the graph was recorded. What Dynamo recorded
    does not depend on the adapters: others are put into the same graph, and nothing is traced anew.
    """

    def __init__(self, backend: GraphBackend, gm: GraphModule, inputs: Sequence[Any]) -> None:
        self._backend, self._gm = backend, gm
        first = backend.rewritten(gm, inputs)
        self.variants = [first]
        self._names, self._indices = first.names, [index for index, _ in first.known]

    def __call__(self, *inputs: Any) -> Any:
        acting = self._backend.acting
        for variant in self.variants:
            if variant.acting == acting and variant.fits(inputs):
                return variant(inputs)
        return self._other(inputs)(inputs)

    def _other(self, inputs: Sequence[Any]) -> _Variant:
        """The variant for adapters or parameters that were not seen before, or were replaced."""
        names = self._backend.names
        given = tuple(names.get(id(inputs[index])) for index in self._indices)
        for variant in self.variants:
            acts = variant.acting == self._backend.acting
            if acts and variant.names == given and variant.has_sizes_of(inputs):
                variant.known = [(index, inputs[index]) for index in self._indices]
                return variant
        if None in given:
            raise _foreign(self._names, given)
        if not self._backend.is_eager:
            # Another backend compiles only while Dynamo holds the shapes of the recording; but
            # what is no adapter's business runs as it was compiled, whatever its parameters.
            same = next((v for v in self.variants if v.acting == self._backend.acting), None)
            if same is None or same.changed or self._backend.concerns(given):
                raise _foreign(self._names, given)
            known = tuple(
                zip(self._indices, given, (inputs[i] for i in self._indices), strict=True)
            )
            self.variants.append(same.with_parameters(known))
            return self.variants[-1]
        self.variants.append(self._backend.rewritten(self._gm, inputs))
        return self.variants[-1]


def _foreign(recorded: Sequence[str | None], given: Sequence[str | None]) -> PeftError:
    first = next(i for i, name in enumerate(given) if name != recorded[i])
    return PeftError(
        f"a graph recorded for `{recorded[first]}` was called with "
        f"`{given[first] or 'a tensor that is not of this model'}`",
        code="R510",
        help="call torch.compiler.reset() after replacing modules or parameters; a graph break "
        "inside layers needs the eager inner backend",
    )

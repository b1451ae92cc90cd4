"""Graphs of a model without running it: TorchDynamo traces, and nothing is computed.

The one file that knows TorchDynamo's internals. A capture leaves no trace: Dynamo's own caches
and size statistics, the modules' attributes and modes, and the random state are as before, so a
later ``torch.compile`` of the same model behaves as if there had been none.
"""

import functools
import inspect
import os
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch._dynamo as dynamo
from torch import nn
from torch.fx import GraphModule, Node, map_arg

from peftlang.capture.experts import at_once, experts_of
from peftlang.capture.facts import CapturedGraph, ModelNames, graphs_of
from peftlang.diagnostics import PeftError

# More frames than this in one forward means that Dynamo does not get through the model.
PROCESS_LIMIT = 1 << 30
"""How often one frame may be compiled by all models of a process together: there is no end."""

_FRAMES = 512


def capture(
    model: nn.Module, example_inputs: Mapping[str, Any], *, training: bool = False
) -> list[CapturedGraph]:
    """Record the graphs of ``model(**example_inputs)``, weights untouched.

    Args:
        model: Any module, on any device, the meta device included.
        example_inputs: Keyword arguments of its forward. Only shapes, types and devices matter.
        training: Whether to record what runs in training (dropout, checkpointing, gradients).

    Returns:
        The graphs in the order in which they run, each followed by the graphs nested in it.

    Raises:
        PeftError: C706 if Dynamo is switched off or the model cannot be traced.
    """
    if switched_off():
        raise PeftError(
            "TorchDynamo is switched off, so the model's graph cannot be read",
            code="C706",
            help="unset TORCHDYNAMO_DISABLE",
        )
    try:
        graphs = _recorded(model, example_inputs, training=training, marked=False)
        if graphs is None:
            graphs = _recorded(model, example_inputs, training=training, marked=True)
    except PeftError:
        raise
    except Exception as error:
        raise PeftError(
            f"the model's graph cannot be read: {_first_line(error)}",
            code="C706",
            help="check that these inputs fit: " + ", ".join(example_inputs),
        ) from error
    if graphs is None:
        raise PeftError(
            "modules that share code share one graph here, so their places cannot be told apart",
            code="C706",
            help="remove what breaks the graph inside them: TORCH_LOGS=graph_breaks shows it",
        )
    if not graphs:
        raise PeftError("TorchDynamo found nothing to record in the model", code="C706")
    return graphs


def _recorded(
    model: nn.Module, example_inputs: Mapping[str, Any], *, training: bool, marked: bool
) -> list[CapturedGraph] | None:
    """The graphs of one forward; None when a graph of one module also ran another.

    After a graph break, modules that share code may share what was recorded for the first of
    them. Marked modules do not: each has a name of its own that Dynamo guards on.
    """
    graphs: list[CapturedGraph] = []
    shared: list[GraphModule] = []

    def record(gm: GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.extend(graphs_of(gm, inputs, ModelNames.of(model)))
        stand_in = _stand_in(gm)

        def run(*given: Any) -> Any:
            pairs = zip(inputs, given, strict=True)
            if any(isinstance(own, nn.Parameter) and own is not now for own, now in pairs):
                shared.append(gm)
            return stand_in(*given)

        return run

    def forward() -> Any:
        return model(**example_inputs)

    # Dynamo counts what it compiled of one code object; each recording has its own.
    own = types.FunctionType(
        forward.__code__.replace(), forward.__globals__, closure=forward.__closure__
    )
    with _undisturbed(model, training=training):
        if marked:
            _mark(model)
        _compiled(own, record)()
    return None if shared else graphs


MARK = "_peftlang_mark"


def _mark(model: nn.Module) -> None:
    """Let each module's forward read the module's own name; undone with the rest of its state."""
    for path, module in model.named_modules():
        instance = module.__dict__.get("forward")
        module.__dict__[MARK] = path
        original = type(module).forward if instance is None else _ignoring_self(instance)
        module.__dict__["forward"] = types.MethodType(_reading_mark(original), module)


def _ignoring_self(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(_module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return call


def _reading_mark(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self._peftlang_mark == "?":
            raise AssertionError("no module has this name")
        return original(self, *args, **kwargs)

    return forward


def switched_off() -> bool:
    """Whether the user has TorchDynamo disabled, by environment or by configuration."""
    return os.environ.get("TORCHDYNAMO_DISABLE") == "1" or bool(dynamo.config.disable)


@contextmanager
def fastpath_disabled() -> Iterator[None]:
    """Keep `torch.nn.TransformerEncoder` off its fused inference kernel, which hides attention."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _compiled(run: Callable[[], Any], backend: Callable[..., Any]) -> Callable[[], Any]:
    options: dict[str, Any] = {}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        options["isolate_recompiles"] = True
    compiled: Callable[[], Any] = torch.compile(run, backend=backend, dynamic=False, **options)
    return compiled


@contextmanager
def _undisturbed(model: nn.Module, *, training: bool) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(_state_kept(model))
        stack.enter_context(at_once(experts_of(model), loops_only=False))
        # What Dynamo has to say about a model is said when the model runs.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(fastpath_disabled())
        stack.enter_context(torch.set_grad_enabled(training))
        stack.enter_context(
            dynamo.config.patch(
                automatic_dynamic_shapes=False,
                recompile_limit=_FRAMES,
                accumulated_recompile_limit=PROCESS_LIMIT,
                suppress_errors=False,
            )
        )
        for module in model.modules():
            module.training = training
        yield


@contextmanager
def _state_kept(model: nn.Module) -> Iterator[None]:
    """Put back every module's attributes: a traced forward may have set some to stand-ins."""
    kept = [(m, [(d, dict(d)) for d in _attribute_dicts(m)]) for m in model.modules()]
    try:
        yield
    finally:
        for _module, dicts in kept:
            for live, before in dicts:
                if live.keys() != before.keys() or any(live[k] is not before[k] for k in before):
                    live.clear()
                    live.update(before)


def _attribute_dicts(module: nn.Module) -> list[dict[str, Any]]:
    state = module.__dict__
    return [state, state["_parameters"], state["_buffers"]]


def _stand_in(gm: GraphModule) -> Callable[..., Any]:
    """A function that returns zeros of the shapes that the graph would return."""
    output = next(iter(gm.graph.find_nodes(op="output")))

    def zeros(node: Node) -> Any:
        value = node.meta.get("example_value")
        if isinstance(value, torch.Tensor):
            return torch.zeros(tuple(value.shape), dtype=value.dtype, device=value.device)
        return value

    def run(*_inputs: Any) -> Any:
        return map_arg(output.args[0], zeros)

    return run


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

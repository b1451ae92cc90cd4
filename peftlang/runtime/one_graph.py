"""The whole adapted model as one graph: recorded as it runs, with all that its adapters do.

What is recorded is a copy of the adapted model that has no weights, called as the caller says: the
model's operations, the adapters' between them, soft tokens, penalties. The graph's parameters are
the model's own, by the names that they have there. It is for one kind of call; what the recording
relied on (shapes, number types, plain values, what the model's Python read of tensors) is looked
at whenever the graph runs.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_flatten

from peftlang.capture import CapturedGraph, ModelNames, Recorder
from peftlang.capture.experts import run_at_once
from peftlang.capture.stand_in import SMALL
from peftlang.diagnostics import PeftError
from peftlang.runtime import registry as state
from peftlang.runtime.call import recorded, scope_of, scoped, supplied, supplied_to
from peftlang.runtime.expected import Arguments, Read, Result, is_plain


def graph(model: nn.Module, inputs: Mapping[str, Any]) -> GraphModule:
    """An adapted model as one ``torch.fx.GraphModule``, for the kind of call that is given.

    The graph computes what ``model(**inputs)`` does now: in the mode (training or evaluation) in
    which the model is, with the adapters that act now; what ``peftlang.inputs`` supplies now is
    part of it. Its parameters and buffers are the model's own objects, under the model's own
    names; those that the call does not read are not there. It is an ordinary module: it trains,
    can be copied, pickled, looked at (``.graph``, ``.code``) and rewritten.

    Args:
        model: An adapted model.
        inputs: The arguments of its forward, by name: tensors, plain values, and lists, tuples
            and dicts of those. Shapes and number types are those that the graph takes later.

    Returns:
        A module that is called as ``module(**inputs)``, with other values in the tensors, and
        returns what the model does. Other shapes, and values on which the model would compute
        otherwise, are refused by it (R538).

    Raises:
        PeftError: R505, the model has no adapter; R537, it cannot be recorded.
    """
    found = state.of(model)
    if not isinstance(inputs, Mapping):
        raise _refused(
            f"inputs is a {type(inputs).__name__}, not a dict",
            "give the arguments of the model's forward by name, as {'input_ids': tensor}",
        )
    # What may be left out of a call stands last: it has a default.
    inputs = dict(sorted(inputs.items(), key=lambda pair: is_plain(pair[1])))
    names = scope_of(found.calls)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise _refused(
            "some of its weights are on the meta device, or are brought from elsewhere when they "
            "are needed",
            "give the model its weights first: load them, or take the offloading hooks off",
        )
    supply = supplied_to(found.calls)
    captured = _recorded(model, inputs, names, supply)
    return _Assembly(model, inputs, captured)()


def _refused(why: str, remedy: str) -> PeftError:
    return PeftError(f"the adapted model cannot be one graph: {why}", code="R537", help=remedy)


# Recording


def _recorded(
    model: nn.Module,
    inputs: Mapping[str, Any],
    names: tuple[str, ...] | None,
    supply: dict[str, Tensor],
) -> CapturedGraph:
    """The call as operations; with weights' values where the model's Python reads those."""
    try:
        return _once(model, inputs, names, supply, FakeTensorMode(allow_non_fake_inputs=True))
    except PeftError:
        raise
    except Exception as error:
        first = error
    try:
        return _once(model, inputs, names, supply, None)
    except PeftError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise _refused(
            lines[0] if lines else type(error).__name__,
            "check that the model runs with these inputs: " + ", ".join(inputs),
        ) from first


def _once(
    model: nn.Module,
    inputs: Mapping[str, Any],
    names: tuple[str, ...] | None,
    supply: dict[str, Tensor],
    fake: FakeTensorMode | None,
) -> CapturedGraph:
    twin = _copied(model, fake)
    calls = state.of(twin).calls
    given = copy.deepcopy(dict(inputs))
    run_at_once(twin)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=_devices(model)))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(recorded())
        if names is not None:
            stack.enter_context(scoped(calls, names))
        if supply:
            stack.enter_context(supplied(calls, supply))
        # The first time it makes its code, which is no part of what it computes.
        for _ in range(2):
            recorder = _Recorder(fake, ModelNames.of(twin.named_modules()))
            recorder.declare(twin, (), given)
            with recorder:
                result = twin(**given)
        return recorder.finished(result, model.training)


def _devices(model: nn.Module) -> list[int]:
    """Numbers of the accelerators whose random numbers a call may draw."""
    places = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return sorted({place.index or 0 for place in places if place.type == "cuda"})


def _copied(model: nn.Module, fake: FakeTensorMode | None) -> nn.Module:
    """A copy, adapters included, with stand-ins for weights, or with the weights themselves."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        with fake or ExitStack():
            own = torch.empty_like(parameter) if fake is not None else parameter.detach()
        memo[id(parameter)] = nn.Parameter(own, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        if fake is not None and buffer.numel() > SMALL:
            with fake:
                memo[id(buffer)] = torch.empty_like(buffer)
    twin = copy.deepcopy(model, memo)
    assert twin is not model
    return twin


class _Recorder(Recorder):
    """Records an adapted model; what Python computes without gradients stays without."""

    def _name(self, node: Node, result: Any) -> None:
        made = isinstance(result, Tensor) and id(result) not in self._nodes
        if made and result.is_floating_point() and not torch.is_grad_enabled():
            meta = node.meta
            node = self.graph.call_method("detach", (node,))
            node.meta.update(meta)
        super()._name(node, result)


# Assembling


_IN_PLACE = {
    f"i{name}": f"__i{name}__"
    for name in ["add", "sub", "mul", "truediv", "and", "or", "xor", "mod", "pow"]
}
_IN_PLACE |= {"ifloordiv": "__ifloordiv__", "setitem": "__setitem__"}


class _Assembly:
    """A recording as a module of its own.

    Args:
        model: The model that was recorded.
        inputs: How it was called.
        captured: The recording.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any], captured: CapturedGraph):
        self._model, self._inputs, self._captured = model, inputs, captured
        self._root: dict[str, Any] = {}
        self._graph, self._known = Graph(), dict[Node, Node]()
        self._unsaved: list[str] = []

    def __call__(self) -> GraphModule:
        captured = self._captured
        self._arguments()
        reads = self._reads()
        for node in captured.graph.nodes:
            if node.op != "output" and node not in self._known:
                self._known[node] = self._copied(node)
            for check, operands in reads.get(node, ()):
                self._called(check, [self._known[operand] for operand in operands])
        self._output()
        made = GraphModule(self._root, self._graph, type(self._model).__name__)
        for name in self._unsaved:
            path, _, leaf = name.rpartition(".")
            made.get_submodule(path)._non_persistent_buffers_set.add(leaf)
        made.graph.lint()
        made.training = self._model.training
        return made

    def _arguments(self) -> None:
        """The caller's arguments, looked at, and the tensors that they hold."""
        names = list(self._inputs)
        placed = []
        for name, value in self._inputs.items():
            default = (value,) if is_plain(value) else ()
            placed.append(self._graph.placeholder(name, None, *default))
        if not names:
            return
        check = Arguments(names, [self._inputs[name] for name in names])
        given = self._called(check, placed, "arguments")
        for place, node in enumerate(self._captured.inputs):
            self._known[node] = self._graph.call_function(operator.getitem, (given, place))

    def _called(self, module: nn.Module, operands: Iterable[Any], name: str = "read") -> Node:
        own = name
        while own in self._root:
            own = f"{name}_{len(self._root)}"
        self._root[own] = module
        return self._graph.call_module(own, tuple(operands))

    def _reads(self) -> dict[Node, list[tuple[Read, list[Node]]]]:
        """What Python read of tensors, by the node behind which that can be looked at."""
        order = {node: place for place, node in enumerate(self._captured.graph.nodes)}
        found: dict[Node, list[tuple[Read, list[Node]]]] = {}
        for function, operands, answer in self._captured.decided:
            leaves, form = tree_flatten(operands)
            nodes = [leaf for leaf in leaves if isinstance(leaf, Node)]
            if nodes and any(self._depends(node) for node in nodes):
                check = Read(function.__name__, leaves, form, answer)
                found.setdefault(max(nodes, key=order.__getitem__), []).append((check, nodes))
        return found

    def _depends(self, node: Node) -> bool:
        """Whether a node is made of what a call gives, or of weights."""
        seen, pending = set[Node](), [node]
        while pending:
            one = pending.pop()
            if one.op == "placeholder":
                return True
            if one not in seen:
                seen.add(one)
                pending += one.all_input_nodes
        return False

    def _copied(self, node: Node) -> Node:
        captured = self._captured
        name = captured.facts.given_name(node)
        if name is not None:
            return self._held(name, self._model_tensor(name))
        if node in captured.constants:
            value = captured.constants[node]
            if isinstance(value, FakeTensor):
                raise _refused(
                    "it computes with a large tensor that is neither a parameter nor a buffer",
                    "register it: module.register_buffer(name, tensor, persistent=False)",
                )
            self._unsaved.append(node.name)
            return self._held(node.name, value)
        made = self._graph.node_copy(node, self._known.__getitem__)
        in_place = _IN_PLACE.get(getattr(node.target, "__name__", ""))
        if node.op == "call_function" and node.target.__module__ == "_operator" and in_place:
            # As functions they are traced as `a + b` when the module is unpickled.
            made.op, made.target = "call_method", in_place
        return made

    def _model_tensor(self, name: str) -> Any:
        path, _, leaf = name.rpartition(".")
        owner = self._model.get_submodule(path)
        if leaf in owner._buffers and leaf in owner._non_persistent_buffers_set:
            self._unsaved.append(name)
        value = owner._parameters.get(leaf)
        return value if value is not None else owner._buffers[leaf]

    def _held(self, name: str, value: Any) -> Node:
        self._root[name] = value
        return self._graph.get_attr(name)

    def _output(self) -> None:
        leaves, form = self._captured.result
        for leaf in leaves:
            if not isinstance(leaf, Node) and not is_plain(leaf):
                raise _refused(
                    f"it returns a {type(leaf).__name__}, which holds more than tensors",
                    "ask for tensors alone: use_cache=False among the inputs",
                )
        made = [self._known[leaf] for leaf in leaves if isinstance(leaf, Node)]
        alone = form.is_leaf() and len(made) == 1
        result = made[0] if alone else self._called(Result(leaves, form), made, "result")
        self._graph.output(result)

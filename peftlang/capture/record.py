"""A model's graph from one call of it: every operation that torch is asked for, in order.

The call runs in plain Python, on a copy of the model without weights, so that what is recorded is
what the model does: whatever it decides, loops over or calls. Tensors that depend on weights are
stand-ins (`FakeTensor`), of which torch computes shapes and number types alone. What depends on the
caller's whole numbers only (ids, masks, positions, grids) is computed for real, so that the
model's Python may read it. A model that reads what its weights make is recorded once more with
them, if they are there.

Nothing of torch's compiler takes part, and no graph breaks.
"""

import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, Node
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils._pytree import tree_flatten, tree_leaves

from peftlang.capture.arguments import arguments_of, items_of, tensors_in
from peftlang.capture.asked import HALF_ALONE, READING, in_half, is_given_back, target_of
from peftlang.capture.experts import run_at_once
from peftlang.capture.facts import (
    FUNCTION,
    STACK,
    VALUE,
    CapturedGraph,
    GraphFacts,
    ModelNames,
    ModuleCall,
    Place,
)
from peftlang.capture.stand_in import modules_of, with_weights, without_values, without_weights
from peftlang.diagnostics import PeftError


def record(
    model: nn.Module, example_inputs: Mapping[str, Any], *, training: bool = False
) -> CapturedGraph:
    """Record ``model(**example_inputs)``; the model, and what its modules hold, is untouched.

    Args:
        model: Any module, on any device, the meta device included; of an adapted one, the base.
        example_inputs: Keyword arguments of its forward.
        training: Whether to record what runs in training mode.

    Returns:
        The graph, in the model's names. Its first placeholders are parameters and buffers.

    Raises:
        PeftError: C706 if the model cannot be called so.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    names = ModelNames.of(modules_of(model))
    memo: dict[int, Tensor] = {}
    inputs = {name: _here(value, memo) for name, value in example_inputs.items()}
    try:
        recorder = Recorder(fake, names)
        return _recorded(recorder, without_weights(model, fake), (), inputs, training)
    except Exception as error:
        first = error
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise _unreadable(first, example_inputs) from first
    try:
        recorder = Recorder(None, names)
        return _recorded(recorder, with_weights(model), (), dict(example_inputs), training)
    except Exception as error:
        raise _unreadable(error, example_inputs) from error


def record_module(
    module: nn.Module,
    path: str,
    names: ModelNames,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> CapturedGraph:
    """Record one module of a model, in its mode, called as it is called in the model now.

    Nothing that the arguments hold (a cache) is changed by it.

    Args:
        module: The module.
        path: Its path in the model.
        names: The model's names, in which the graph is.
        args: The module's arguments; of real numbers, their shapes and number types alone count.
        kwargs: Those given by name.

    Raises:
        Exception: whatever the module raises where it reads what its weights make.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    twin = without_weights(module, fake)
    given, named = without_values((tuple(args), dict(kwargs)), fake)
    return _recorded(Recorder(fake, names, path), twin, given, named, module.training)


def _unreadable(error: Exception, inputs: Mapping[str, Any]) -> PeftError:
    lines = str(error).strip().splitlines()
    return PeftError(
        f"the model's graph cannot be read: {lines[0] if lines else type(error).__name__}",
        code="C706",
        help="check that these inputs fit: " + ", ".join(inputs),
    )


def _here(value: Any, memo: dict[int, Tensor]) -> Any:
    """An argument on the processor, with its values if it has any; what is one tensor stays one."""
    if isinstance(value, Tensor):
        if id(value) not in memo:
            own = torch.zeros_like(value, device="cpu") if value.is_meta else value.detach().cpu()
            memo[id(value)] = own
        return memo[id(value)]
    if type(value) in {list, tuple}:
        return type(value)(_here(item, memo) for item in value)
    return {k: _here(v, memo) for k, v in value.items()} if type(value) is dict else value


def _recorded(
    recorder: "Recorder", twin: nn.Module, args: Any, kwargs: dict[str, Any], training: bool
) -> CapturedGraph:
    twin.train(training)
    recorder.declare(twin, args, kwargs)
    run_at_once(twin)
    _watch(twin, recorder)
    with ExitStack() as stack:
        stack.enter_context(_without_modes())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder)
        result = twin(*args, **kwargs)
    return recorder.finished(result, training)


@contextmanager
def _without_modes() -> Iterator[None]:
    """Nothing that watches operations around a recording sees it: it is none of theirs."""
    modes = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]
    try:
        yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


# Operations


class Recorder(TorchFunctionMode):
    """Writes down each operation that torch is asked for as a node of a graph.

    Args:
        fake: Computes with stand-ins; None where tensors have their values.
        names: Names of the model's parameters and modules.
        path: The module of it that is called.
    """

    def __init__(self, fake: FakeTensorMode | None, names: ModelNames, path: str = "") -> None:
        super().__init__()
        self._path = path
        self.graph, self.facts = Graph(), GraphFacts(names)
        self.calls: list[ModuleCall] = []
        self._fake = fake
        self._nodes: dict[int, Node] = {}
        self._alive: list[Tensor] = []
        self._stack: list[ModuleCall] = []
        self._numbers: dict[str, int] = {}
        self._inputs: list[Node] = []
        self._decided: list[tuple[Any, Any, Any]] = []
        self._constants: dict[Node, Tensor] = {}

    def declare(self, twin: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Make placeholders of the tensors that the call starts from."""
        for name, parameter in twin.named_parameters():
            node = self._placeholder(name.replace(".", "_"), parameter)
            self.facts.parameters[node] = self.facts.names.first(self.whole(name))
        for name, buffer in twin.named_buffers():
            node = self._placeholder(name.replace(".", "_"), buffer)
            self.facts.buffers[node] = self.whole(name)
        given = {f"argument_{place}": value for place, value in enumerate(args)}
        for name, value in {**given, **kwargs}.items():
            for index, leaf in enumerate(tree_leaves(value)):
                if isinstance(leaf, Tensor) and id(leaf) not in self._nodes:
                    made = self._placeholder(name if leaf is value else f"{name}_{index}", leaf)
                    self._inputs.append(made)

    def whole(self, name: str) -> str:
        """The qualified name of what has this name in the module that is called."""
        return f"{self._path}.{name}" if self._path and name else self._path or name

    def _placeholder(self, name: str, value: Tensor) -> Node:
        node = self.graph.placeholder(name)
        node.meta[VALUE] = value
        return self._now(value, node)

    def _now(self, value: Tensor, node: Node) -> Node:
        """From here on the tensor is what the node computes."""
        self._nodes[id(value)] = node
        self._alive.append(value)
        return node

    def node(self, value: Tensor) -> Node:
        """The node that computes a tensor; a constant where none was recorded."""
        if id(value) not in self._nodes:
            node = self.graph.create_node("get_attr", f"constant_{len(self._alive)}")
            node.meta |= {VALUE: value, STACK: self._modules()}
            self._constants[node] = value
            self._now(value, node)
        return self._nodes[id(value)]

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = self._computed(func, args, kwargs)
        if is_given_back(result, func, args, kwargs):
            # `x.to(x.dtype)` gives `x` itself, and in another number type it would not.
            result = result.view_as(result)
        target = target_of(func)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if target is not None and (made or target is operator.setitem):
            if target is getattr:
                args = (args[0], func.__self__.__name__)  # type: ignore[attr-defined]
            self._write(func, target, args, kwargs, result)
        elif getattr(func, "__name__", "") in READING:
            self._decided.append((func, self._operands(args), result))
        return result

    def _computed(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if self._fake is None or not any(isinstance(t, FakeTensor) for t in tensors):
            return func(*args, **kwargs)
        with self._fake:
            if getattr(func, "__name__", "") in HALF_ALONE:
                return in_half(func, args, kwargs)
            return func(*args, **kwargs)

    def _write(
        self, func: Callable[..., Any], target: Any, args: Any, kwargs: Any, result: Any
    ) -> None:
        kind = "call_method" if isinstance(target, str) else "call_function"
        made = self.graph.create_node(kind, target, self._operands(args), self._operands(kwargs))
        made.meta |= {VALUE: result, STACK: self._modules(), FUNCTION: func}
        self._name(made, result)

    def _name(self, node: Node, result: Any) -> None:
        if isinstance(result, Tensor):
            self._now(result, node)
            return
        for key, item in items_of(result):
            if isinstance(item, Tensor | list | tuple | dict) and not isinstance(item, torch.Size):
                part = self.graph.call_function(operator.getitem, (node, key))
                part.meta |= {VALUE: item, STACK: node.meta[STACK]}
                self._name(part, item)

    def _operands(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, torch.Size) or hasattr(value, "_fields"):
            return tuple(map(self._operands, value))
        if isinstance(value, list | tuple):
            return type(value)(map(self._operands, value))
        if isinstance(value, dict):
            return {key: self._operands(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*map(self._operands, (value.start, value.stop, value.step)))
        return value

    def _modules(self) -> tuple[tuple[str, int], ...]:
        return tuple((call.path, call.number) for call in self._stack)

    # Modules

    def enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A call of a module begins."""
        number = self._numbers.get(path, 0)
        self._numbers[path] = number + 1
        call = ModuleCall(path, number)
        for place, value in arguments_of(module, args, kwargs):
            if id(value) in self._nodes:
                call.inputs.setdefault(self._nodes[id(value)], place)
        self.calls.append(call)
        self._stack.append(call)

    def leave(self, result: Any) -> None:
        """The innermost call is done."""
        call = self._stack.pop()
        for place, value in tensors_in(result, Place()):
            if id(value) in self._nodes:
                call.outputs.setdefault(self._nodes[id(value)], place)

    def finished(self, result: Any, training: bool) -> CapturedGraph:
        """The graph, without the parameters that nothing reads."""
        leaves, form = tree_flatten(result)
        made = tuple(self.node(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        self.graph.output(tuple(leaf for leaf in made if isinstance(leaf, Node)))
        for known in (self.facts.parameters, self.facts.buffers):
            for node in [node for node in known if not node.users]:
                del known[node]
                self.graph.erase_node(node)
        return CapturedGraph(
            self.graph,
            self.facts,
            tuple(self.calls),
            training,
            tuple(self._inputs),
            (made, form),
            tuple(self._decided),
            self._constants,
        )


def _watch(twin: nn.Module, recorder: Recorder) -> None:
    """Let the recorder know which module runs: around forward, as an adapter would act."""
    for path, module in twin.named_modules():
        own = module.__dict__.get("forward") or types.MethodType(type(module).forward, module)
        module.__dict__["forward"] = _watching(recorder.whole(path), module, own, recorder)


def _watching(
    path: str, module: nn.Module, own: Callable[..., Any], recorder: Recorder
) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        recorder.enter(path, module, args, kwargs)
        result = own(*args, **kwargs)
        recorder.leave(result)
        return result

    return forward

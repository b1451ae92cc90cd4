"""What is known of a recorded graph's nodes in terms of the model: parameters, modules, calls."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx import Graph, Node

from peftlang.capture.storage import own_parameters

VALUE = "example_value"
"""Key of ``node.meta``: a stand-in for the node's value, of its shape and number type."""

STACK = "peftlang_modules"
"""Key of ``node.meta``: ``(path, number of the call)`` of the modules that ran, outermost first."""

FUNCTION = "peftlang_function"
"""Key of ``node.meta``: the function as torch was asked for it, which tells it from its like."""


def asked_name(function: Any) -> str:
    """What torch was asked for, by one name for a function, a method and an operator."""
    name: str = getattr(function, "__name__", "")
    if name == "__get__":
        return f"get {function.__self__.__name__}"
    name = name.strip("_") if name.startswith("__") else name
    return _SAME.get(name, name)


_SAME = {
    "radd": "add",
    "rmul": "mul",
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
}

# TorchDynamo then calls it as it traces, rather than trace it: its result is a constant there.
asked_name._dynamo_marked_constant = True  # type: ignore[attr-defined]


@dataclass(frozen=True)
class ModelNames:
    """A model's parameters and lists of modules, by name.

    Attributes:
        parameters: Qualified names; a tied parameter has the first of its names.
        owned: For each module, the (first) names of the parameters that are its own attributes,
            and what each is called there.
        lists: The length of each list of modules (``ModuleList`` or ``Sequential``).
    """

    parameters: tuple[str, ...] = ()
    owned: dict[str, dict[str, str]] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, modules: Iterable[tuple[str, nn.Module]]) -> "ModelNames":
        """Names of a model, given its modules with their paths."""
        first: dict[int, str] = {}
        owned: dict[str, dict[str, str]] = {}
        lists: dict[str, int] = {}
        for path, module in modules:
            owned[path] = {
                first.setdefault(id(parameter), f"{path}.{leaf}" if path else leaf): leaf
                for leaf, parameter in own_parameters(module).items()
            }
            if isinstance(module, nn.ModuleList | nn.Sequential):
                lists[path] = len(module)
        return cls(tuple(first.values()), owned, lists)

    def first(self, name: str) -> str:
        """The first name of the parameter that has this one."""
        path, _, leaf = name.rpartition(".")
        own = self.owned.get(path, {})
        return next((first for first, here in own.items() if here == leaf), name)

    def at(self, path: str, name: str) -> str:
        """A parameter's name as a module that has it calls it; else its first name."""
        leaf = self.owned.get(path, {}).get(name)
        if leaf is None:
            return name
        return f"{path}.{leaf}" if path else leaf

    def holders(self, name: str) -> list[tuple[str, str]]:
        """Every module that has a parameter as its own, and what it is called there."""
        return [(path, own[name]) for path, own in self.owned.items() if name in own]


@dataclass(frozen=True)
class GraphFacts:
    """What is known of one graph's nodes in terms of the root model."""

    names: ModelNames
    parameters: dict[Node, str] = field(default_factory=dict)
    buffers: dict[Node, str] = field(default_factory=dict)

    def given_name(self, node: Node) -> str | None:
        """The name of the parameter or buffer that a node is, if it is one."""
        return self.parameter_of(node) or self.buffer_of(node)

    def parameter_of(self, node: Node) -> str | None:
        """Qualified name of the model parameter that a placeholder is."""
        return self.parameters.get(node)

    def buffer_of(self, node: Node) -> str | None:
        """Qualified name of the model buffer that a placeholder is."""
        return self.buffers.get(node)

    @staticmethod
    def module_paths(node: Node) -> list[str]:
        """Qualified names of the modules that ran when `node` was recorded, outer first."""
        return [path for path, _ in node.meta.get(STACK, ()) if path]

    def module_path(self, node: Node) -> str | None:
        """Qualified name of the innermost module that was running, None at the root's level."""
        paths = self.module_paths(node)
        return paths[-1] if paths else None

    @staticmethod
    def call_key(node: Node, path: str) -> Hashable | None:
        """A key that tells one call of the module `path` from its other calls in this graph."""
        return next((key for key in node.meta.get(STACK, ()) if key[0] == path), None)


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in the arguments or the result of a call.

    Attributes:
        name: Of the parameter of the module's forward; None where it has none, and in results.
        position: Among positional arguments; None where it was given, or can be, by name alone.
        path: From there, keys of dictionaries and indices of sequences.
    """

    name: str | None = None
    position: int | None = None
    path: tuple[Any, ...] = ()


@dataclass
class ModuleCall:
    """One call of one module.

    Attributes:
        path: Qualified name of the module.
        number: How many calls of it came before.
        inputs: The tensors among its arguments, each at its first place.
        outputs: The tensors among its results.
    """

    path: str
    number: int
    inputs: dict[Node, Place] = field(default_factory=dict)
    outputs: dict[Node, Place] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CapturedGraph:
    """One recorded call of a model, or a part of one.

    Attributes:
        graph: Its operations. Parameters, buffers and the caller's tensors are placeholders.
        facts: Which node is what of the model.
        calls: The calls of modules, in the order in which they began.
        training: Whether the modules were in training mode.
        inputs: The caller's tensors, in the order in which its arguments hold them.
        result: What the call returned: its leaves, nodes in the place of tensors, and its form.
        decided: What the model's Python read of tensors' values: function, operands, answer.
        constants: Tensors that are neither; the model holds them, or they were made beforehand.
        derived: What analyses found out about the graph, by analysis.
    """

    graph: Graph
    facts: GraphFacts
    calls: tuple[ModuleCall, ...] = ()
    training: bool = False
    inputs: tuple[Node, ...] = ()
    result: tuple[tuple[Any, ...], Any] = ((), None)
    decided: tuple[tuple[Any, Any, Any], ...] = ()
    constants: dict[Node, Any] = field(default_factory=dict)
    derived: dict[Any, Any] = field(default_factory=dict)

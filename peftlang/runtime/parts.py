"""What runs at one module of a model, and at one operation of a module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peftlang.dataflow.borders import Border
from peftlang.emit.slots import Slot
from peftlang.regions.usage import Used


class Made:
    """Code that was made, each piece an attribute with a name that its key has.

    An attribute, and no entry of a mapping: what TorchDynamo traces sees the entries that there
    were when it first looked, and attributes as they are.
    """

    def __init__(self) -> None:
        self.names: dict[Any, str] = {}

    def add(self, key: Any, code: Any) -> str:
        """Keep a piece; its name."""
        name = f"made_{len(self.names)}"
        setattr(self, name, code)
        self.names[key] = name
        return name


@dataclass(frozen=True)
class Code:
    """An operation, or a model as one graph, with what acts there written into it.

    Attributes:
        run: Takes the slots' values, then the tensors of the call; returns its result, and behind
        it
            what is handed on.
        slots: What it takes from outside.
        exported: What it hands on.
        constants: Values of slots that are its own.
    """

    run: Callable[..., Any]
    slots: tuple[Slot, ...]
    exported: tuple[Slot, ...]
    constants: Mapping[Slot, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Operation:
    """Sites that lie within one operation of a module.

    Attributes:
        path: The module's.
        name: The operation's.
        number: How often the module asked torch for it before.
        count: How often it does in all.
        function: What torch is asked for.
        recorded: Its operands when the model was recorded: nodes and plain values.
        sites: The sites.
        far: What they read of other modules, by site and name.
    """

    path: str
    name: str
    number: int
    count: int = 1
    function: Any = None
    recorded: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    sites: list[Used] = field(default_factory=list)
    far: dict[str, dict[str, Border]] = field(default_factory=dict)
    made: Made = field(default_factory=Made)

    @property
    def folded(self) -> tuple[int, int] | None:
        """How many heads of keys there are, and of queries for each, where they differ."""
        dims = self.sites[0].occurrence.site.dims
        heads, own = dims.get("heads", 0), dims.get("kv_heads", 0)
        return (own, heads // own) if own and own != heads else None


@dataclass(eq=False)
class Part:
    """What runs at one module.

    Attributes:
        path: The module.
        sites: What is done at the module's border, or between its operations.
        within: Whether it is between operations.
        operations: What is done at single operations of it.
        recorded: What others read of it in the same call.
        only_in: What is known of the call only while another module runs: an embedding that two
            towers share is that of soft tokens in one of them.
        starting: Carried states that start here, where no earlier site has left them.
        far: What it reads of other modules.
    """

    path: str
    sites: list[Used] = field(default_factory=list)
    within: bool = False
    operations: dict[tuple[str, int], Operation] = field(default_factory=dict)
    recorded: list[Border] = field(default_factory=list)
    only_in: dict[str, str] = field(default_factory=dict)
    starting: tuple[str, ...] = ()
    made: Made = field(default_factory=Made)

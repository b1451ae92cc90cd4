"""The plan: which tensors exist, which placements use them, and on which sites."""

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pydantic import Field

from peftlang.ir.expr import Scalar
from peftlang.ir.method import Adapter, Use
from peftlang.ir.selector import Frozen

TRAINED = "trained"
"""Label of the groups that are copies of base parameters, for ``train`` clauses."""


class Rows(Frozen):
    """The rows of a fused projection that make one role.

    Attributes:
        runs: ``(start, stop, step)`` ranges in the order in which the role's own features come.
        size: Number of rows of the whole projection.
    """

    runs: tuple[tuple[int, int, int], ...]
    size: int

    @property
    def indices(self) -> list[int]:
        return [i for start, stop, step in self.runs for i in range(start, stop, step)]

    @property
    def count(self) -> int:
        return sum(len(range(*run)) for run in self.runs)

    @property
    def contiguous(self) -> tuple[int, int] | None:
        """(start, stop) when the rows are one unbroken run."""
        if len(self.runs) == 1 and self.runs[0][2] == 1:
            return self.runs[0][:2]
        return None


Sees = Literal["earlier", "masked", "all"]
"""Which keys a stack's queries see: none that come later, those that a mask leaves, or all."""


class Site(Frozen):
    """One place of a model where a method can act, found by dataflow.

    Attributes:
        id: Unique: module path, ``#`` and the role.
        role: A position of the language.
        path: Module path of the owner; "" for the root.
        stack: Path of the list of layers that it lives in.
        side: ``encoder``, ``decoder``, or the name of a tower.
        layer: Index in the stack.
        weight: Qualified name of W in the root model.
        bias: Qualified name of b.
        transposed: W is stored ``[d_x, d_h]`` rather than ``[d_h, d_x]``.
        rows: Rows of a fused projection; None for all.
        anchors: Parameters whose use in a graph means that this site runs there.
        sees: What the self-attention of its stack lets a token see; None where there is none.
        dims: Sizes: d_x, d_h, heads, kv_heads, d_head, layers, vocab, where they exist.
    """

    id: str
    role: str
    path: str = ""
    stack: str | None = None
    side: str | None = None
    layer: int | None = None
    weight: str | None = None
    bias: str | None = None
    transposed: bool = False
    rows: Rows | None = None
    anchors: tuple[str, ...] = ()
    sees: Sees | None = None
    dims: dict[str, int] = Field(default_factory=dict)

    @property
    def sequence(self) -> str:
        """Which of the model's sequences the tokens here are: a side's, or ``model``."""
        if self.role in {"cross_attn.k", "cross_attn.v"}:
            return "encoder"
        return self.side or "model"

    @property
    def is_expert(self) -> bool:
        """Whether it is a projection of one expert of several that one parameter holds."""
        return self.role.startswith("expert.")


class ParamGroup(Frozen):
    """One tensor and every place that uses it.

    Attributes:
        name: Key in the adapter's parameters; dots separate label, place and tensor name.
        tensor: Name of the tensor in its method.
        shape: Sizes.
        trainable: False for buffers.
        kind: float or int.
        members: ``(placement label, site id)`` of every use.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    trainable: bool
    kind: str = "float"
    members: tuple[tuple[str, str], ...] = ()

    @property
    def count(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total


class Tapped(Frozen):
    """What a tap reads at one site.

    Attributes:
        site: Id of the site that is read.
        value: Which of its values.
        sizes: Sizes of the dimensions that the tap names.
    """

    site: str
    value: str
    sizes: dict[str, int] = Field(default_factory=dict)


RegionKind = Literal["module", "operation", "inside", "call", "whole"]
"""A module's border; one operation in it; its operations one by one; arguments and results of the
model's call; the model as one graph."""

ReasonKind = Literal["border", "within", "between", "arguments", "ahead"]
"""Why a region is not smaller.

- ``border``: a module's border is the least; all of it shows there.
- ``within``: it lies within one operation, whose operands and result alone can be reached.
- ``between``: it shows between operations of the module, at no module's border.
- ``arguments``: soft tokens change how many tokens the whole model sees.
- ``ahead``: a tap reads a site before the model gets there, so that it runs in another order.
"""


class Reason(Frozen):
    """Why a region is not smaller.

    Attributes:
        kind: What keeps it from being so.
        names: Which of the site's values, such as ``q``; for ``ahead`` the site that is read.
    """

    kind: ReasonKind
    names: tuple[str, ...] = ()


class Region(Frozen):
    """The part of a model that holds what is read and written at a site.

    Attributes:
        kind: What of the module.
        path: The module.
        reason: Why it is not smaller.
        function: The operation's name; "" for none.
        number: Which of the module's operations of that name.
        count: How many of that name there are.
    """

    kind: RegionKind
    path: str
    reason: Reason
    function: str = ""
    number: int = 0
    count: int = 0


class Placement(Frozen):
    """One use of a method, resolved to sites.

    Attributes:
        label: Name of the use within the adapter.
        method: The method's name.
        args: Value of every hyper-parameter.
        selector: The selector's text.
        sites: Ids of the sites, in model order.
        tensors: For each site, which group holds each of the method's tensors.
        taps: For each site, what each of the method's taps reads.
        regions: For each site, the part of the model that holds what is done there.
    """

    label: str
    method: str
    args: dict[str, Scalar]
    selector: str
    sites: tuple[str, ...]
    tensors: dict[str, dict[str, str]] = Field(default_factory=dict)
    taps: dict[str, dict[str, Tapped]] = Field(default_factory=dict)
    regions: dict[str, Region] = Field(default_factory=dict)

    def tapped_sizes(self, site: str) -> dict[str, int]:
        """Sizes of the dimensions that the taps name at a site."""
        found = self.taps.get(site, {}).values()
        return {name: size for tapped in found for name, size in tapped.sizes.items()}


class Plan(Frozen):
    """An adapter resolved against a model.

    Serialises to JSON without the expressions; the spec's source reproduces those.

    Attributes:
        adapter: Name of the adapter in the spec.
        sites: Every site in use, by id.
        placements: In the order in which they act.
        groups: Every tensor, by name.
        train: Base parameters that train, with their shapes; the adapter has its own copy of each.
        tapped: Every site that a tap reads, by id.
        beside: Every other site that has to be found, so that soft tokens can come in at a layer.
    """

    adapter: str
    sites: dict[str, Site]
    placements: tuple[Placement, ...]
    groups: dict[str, ParamGroup] = Field(default_factory=dict)
    train: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    tapped: dict[str, Site] = Field(default_factory=dict)
    beside: dict[str, Site] = Field(default_factory=dict)
    spec: Adapter | None = Field(default=None, exclude=True, repr=False)

    @cached_property
    def uses(self) -> dict[str, Use]:
        """The use behind each placement's label."""
        return {use.label: use for use in self.spec.uses} if self.spec else {}

    @property
    def is_whole(self) -> bool:
        """Whether the model has to run as one graph."""
        return any(r.kind == "whole" for p in self.placements for r in p.regions.values())

    @property
    def concerned(self) -> dict[str, Site]:
        """Every site that has to be found: those in use, those that taps read, those beside."""
        return {**self.beside, **self.tapped, **self.sites}

    def tapped_sequences(self, placement: Placement) -> Iterator[tuple[Site, Site]]:
        """Each site of a placement that reads the whole sequence at another, and that other."""
        method = self.uses[placement.label].method
        names = [tap.name for tap in method.taps if tap.sequence]
        for site, read in placement.taps.items():
            for name in names:
                yield self.sites[site], self.concerned[read[name].site]

    @property
    def trainable(self) -> int:
        """Number of trainable numbers, copies of base parameters included."""
        return sum(g.count for g in self.groups.values() if g.trainable)


class ActivePlan(Frozen):
    """An adapter that is switched on.

    Attributes:
        name: The name that it has on the model.
        plan: What goes where.
        without: Names of passes that are left out where it acts.
    """

    name: str
    plan: Plan
    without: tuple[str, ...] = ()

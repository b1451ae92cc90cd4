"""Adapter tensors: their place in the module tree, and how they come to life.

A tensor lives in the module where its method acts, so that it goes where that goes: to a device,
into a shard, to disk. What brings a tensor to life there (offloading, sharding) is a hook at the
forward of the module that has it; so a `Holder` is a module whose forward gives its tensors.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import ADAPTERS, Weights
from peftlang.capture.storage import gathered, held, is_offloaded
from peftlang.diagnostics import PeftError
from peftlang.emit.starts import Start, like_at
from peftlang.ir.method import TensorDef
from peftlang.ir.plan import TRAINED, ParamGroup, Plan, Site
from peftlang.runtime.shards import shard, together


def nothing(*_: Any) -> None:
    """A hook that does nothing."""


class Holder(nn.Module):
    """The tensors of one method at one place; its forward gives them, in order of creation.

    Attributes:
        names: Their names, in that order.
        unmade: Those that have no numbers yet, since they were made on the meta device.
        apart: Those that are in shards which nobody but their holder puts together.
        split: For each dimension of the mesh that computes in parts: `d_h`, `d_x`, or "".
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.unmade: set[str] = set()
        self.apart: set[str] = set()
        self.split: tuple[str, ...] = ()

    def hold(self, name: str, value: Tensor, *, trainable: bool, persistent: bool) -> None:
        """Register a tensor: a parameter if trainable, else a buffer."""
        if trainable:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value, persistent=persistent)
        self.names.append(name)
        if value.is_meta:
            self.unmade.add(name)

    def tensor(self, name: str) -> Tensor:
        """One of them."""
        value: Tensor | None = self._parameters.get(name)
        if value is None:
            value = self._buffers[name]
        assert value is not None
        return value

    def forward(self) -> list[Tensor]:
        """All of them.

        Raises:
            PeftError: R532, some have no numbers.
        """
        values = [self.tensor(name) for name in self.names]
        if self.unmade:
            self._check_made(values)
        if self.apart:
            pairs = zip(self.names, values, strict=True)
            values = [together(v) if name in self.apart else v for name, v in pairs]
        if "_hf_hook" in self.__dict__ and is_offloaded(self):
            for value in values:
                if value.requires_grad:
                    value.register_hook(_refuse_gradient)
        return values

    def _check_made(self, values: list[Tensor]) -> None:
        pairs = zip(self.names, values, strict=True)
        lacking = [n for n, v in pairs if n in self.unmade and not v.is_meta]
        if lacking:
            raise PeftError(
                f"the adapter was made on the meta device, and its {', '.join(lacking)} has no "
                "numbers yet",
                code="R532",
                help="after to_empty, call peftlang.initialise(model), and then load what is to be "
                "loaded",
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.unmade = {n for n in self.unmade if prefix + n not in state_dict}


def _refuse_gradient(_: Tensor) -> None:
    raise PeftError(
        "the adapter's tensors are offloaded with the base: what a gradient reaches is a copy for "
        "the time of one call, so nothing would train",
        code="R533",
        help="offload the base before peftlang.compile: the adapter then stays on the device where "
        "the model computes",
    )


class Adapters(nn.Module):
    """The adapters' tensors that live in one module, by adapter, method and place.

    A module that calls its children one after the other finds one that hands on what it is given.

    It has a hook, which does nothing: with a hook inside of it, a
    `torch.nn.TransformerEncoderLayer` calls its modules, rather than compute with their weights at
    once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(nothing)

    def forward(self, *args: Any) -> Any:
        """What came in."""
        return args[0] if len(args) == 1 else args


class AdapterTensors:
    """The tensors of one adapter by group name, wherever they live.

    A group called ``lora.model.layers.0.q_proj.attn_q.A`` is
    ``q_proj.peftlang.NAME.lora.attn_q.A``.

    Attributes:
        name: The adapter's name.
        places: The holder of each group's tensor, and what the tensor is called there.
        later: Values that were loaded while their tensors were on the meta device.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[str, tuple[Holder, str]] = {}
        self.later: dict[str, Tensor] = {}
        self._trees: dict[int, tuple[nn.Module, nn.Module]] = {}
        self._stored: set[str] = set()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Homes are known by their identity, which a copy has not."""
        self.__dict__.update(state)
        self._trees = {id(home): (home, tree) for home, tree in self._trees.values()}

    def add(
        self,
        home: nn.Module,
        path: list[str],
        group: str,
        value: Tensor,
        *,
        trainable: bool,
        persistent: bool,
    ) -> None:
        """Hold a group's tensor for a module; it is there when the adapter is attached.

        Args:
            home: The module.
            path: Where among the adapter's tensors there; the last part names the tensor.
            group: The group's name.
            value: The tensor.
            trainable: Whether it is a parameter.
            persistent: Whether a saved adapter, and a state dict, has it.
        """
        *parts, leaf = map(_attribute, path)
        _, owner = self._trees.setdefault(id(home), (home, nn.Module()))
        for part in parts[:-1]:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if parts[-1] not in owner._modules:
            owner.add_module(parts[-1], Holder())
        holder = owner.get_submodule(parts[-1])
        assert isinstance(holder, Holder)
        holder.hold(leaf, value, trainable=trainable, persistent=persistent)
        self.places[group] = holder, leaf
        if trainable or persistent:
            self._stored.add(group)

    def attach(self) -> None:
        """Put all tensors into the model."""
        for home, tree in self._trees.values():
            if ADAPTERS not in home._modules:
                home.add_module(ADAPTERS, Adapters())
            home.get_submodule(ADAPTERS).add_module(_attribute(self.name), tree)
            tree.train(home.training)

    def detach(self) -> None:
        """Take all tensors out of the model."""
        for home, _ in self._trees.values():
            held = home._modules.get(ADAPTERS)
            if held is not None:
                held._modules.pop(_attribute(self.name), None)
                if not held._modules:
                    del home._modules[ADAPTERS]

    def is_persistent(self, name: str) -> bool:
        """Whether a saved adapter holds this tensor, rather than its seed."""
        return name in self._stored

    def keep(self, name: str) -> None:
        """Store a buffer with the adapter: its values are not those that its seed gives."""
        holder, leaf = self.places[name]
        holder._non_persistent_buffers_set.discard(leaf)
        self._stored.add(name)

    def tensor(self, name: str) -> Tensor:
        """The current tensor of a group."""
        holder, leaf = self.places[name]
        return holder.tensor(leaf)

    def value(self, name: str) -> Tensor:
        """A group's numbers, all of them: gathered from shards, brought from where they are kept.

        Raises:
            PeftError: R532, it has none.
        """
        holder, leaf = self.places[name]
        kept = held(holder, "", leaf)
        if kept.is_meta or leaf in holder.unmade:
            raise unmade(name)
        return gathered(kept.detach())

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every group's name and tensor, in order of creation."""
        for name in self.places:
            yield name, self.tensor(name)


_TAKEN = frozenset(dir(Holder()))


def _attribute(part: str) -> str:
    """A part of a name as an attribute of a module; `train`, `half`, … are taken there."""
    return f"{part}_" if part in _TAKEN else part


def create(
    name: str, plan: Plan, model: nn.Module, *, seed: int, dtype: torch.dtype | None = None
) -> AdapterTensors:
    """Make the tensors of a plan on the base's devices, initialised and reproducible.

    Args:
        name: The adapter's name.
        plan: A plan with its groups.
        model: The base.
        seed: Each tensor has a generator seeded by this and by its own name, so a tensor starts
            the same whatever else is in the plan, and on every device.
        dtype: Number type of parameters; None takes that of the weights at each site.
    """
    weights = Weights(model)
    made, start = AdapterTensors(name), Start(plan, weights, seed)
    values: list[tuple[ParamGroup, Tensor, bool]] = []
    with torch.no_grad():
        for group in plan.groups.values():
            value = started(group, start, weights, dtype)
            stored = is_trained(group) or start.definition(group).trainable
            values.append((group, value, stored or start.reads_the_base(group)))
    # Nothing is put on the model before all are made.
    for group, value, persistent in values:
        home, path = home_of(group, plan, model)
        made.add(
            model.get_submodule(home),
            path,
            group.name,
            value,
            trainable=group.trainable,
            persistent=persistent,
        )
        shard(made, group, plan, weights)
    return made


def started(
    group: ParamGroup, start: Start, weights: Weights, dtype: torch.dtype | None = None
) -> Tensor:
    """Where a group's tensor starts, on the device of the base there; whole, and in no shards.

    Args:
        group: The group.
        start: What makes its numbers.
        weights: The base's.
        dtype: Number type; None takes the base's there.

    Raises:
        PeftError: S408, the initialiser makes another shape.
    """
    label, member = group.members[0]
    if label == TRAINED:
        return weights[member].detach().clone()
    site = start.plan.sites[member]
    like, value = like_at(site, weights), start(group)
    if value.shape != group.shape:
        raise _misshapen(start.definition(group), group, value, site)
    kind = (dtype or like.dtype) if value.is_floating_point() else value.dtype
    return value.to(like.device, kind).contiguous()


def is_trained(group: ParamGroup) -> bool:
    """Whether a group is a copy of one of the base's own parameters."""
    return group.members[0][0] == TRAINED


def unmade(name: str) -> PeftError:
    """The error for a tensor without numbers."""
    return PeftError(
        f"the adapter's tensor {name} is on the meta device, and has no numbers",
        code="R532",
        help="give the model's tensors memory (to_empty), and call peftlang.initialise(model)",
    )


def home_of(group: ParamGroup, plan: Plan, model: nn.Module) -> tuple[str, list[str]]:
    """The module in which a group's tensor lives, and where among the adapters' tensors there."""
    label, member = group.members[0]
    if label == TRAINED:
        owner, _, leaf = member.rpartition(".")
        return owner, [TRAINED, leaf]
    paths = [plan.sites[site].path for _, site in group.members]
    home = _callable(model, _common(paths))
    inner = group.name.removeprefix(f"{label}.").removesuffix(f".{group.tensor}")
    own = inner.removeprefix(f"{home}.") if home else inner
    return home, [label, own.replace(".", "_"), group.tensor]


def _common(paths: list[str]) -> str:
    split = [path.split(".") if path else [] for path in paths]
    shared = []
    for column in zip(*split, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared)


def _callable(model: nn.Module, path: str) -> str:
    """The innermost module on a path that is no list of others, in which ours would be counted."""
    parts = path.split(".") if path else []
    while parts and isinstance(
        model.get_submodule(".".join(parts)), nn.Sequential | nn.ModuleList | nn.ModuleDict
    ):
        parts.pop()
    return ".".join(parts)


def _misshapen(definition: TensorDef, group: ParamGroup, value: Tensor, site: Site) -> PeftError:
    return PeftError(
        f"`{definition.name}` is {list(group.shape)} at {site.id}, and its initialiser makes "
        f"{list(value.shape)} there",
        code="S408",
        help="choose smaller sizes; a matrix has rows * columns places",
    )

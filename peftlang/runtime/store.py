"""Adapter tensors: creation, seeding, and their place in the module tree."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.ir.expr import names
from peftlang.ir.inits import INITIALISERS, InitCall
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Init, TensorDef, fixed
from peftlang.ir.plan import TRAINED, ParamGroup, Plan, Site
from peftlang.ir.sizes import site_sizes
from peftlang.passes.views import select

STORE = "peftlang_adapters"
"""Name of the sub-module that holds every adapter's tensors in the adapted model."""


class AdapterTensors(nn.Module):
    """The tensors of one adapter, reachable by group name and as ordinary sub-modules.

    A group called ``lora.model.layers.0.q_proj.A`` is the parameter of that path below this
    module, so ``state_dict``, ``to``, optimizers and wrappers see it as they see any other.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self._stored: set[str] = set()

    def add(self, name: str, value: Tensor, *, trainable: bool, persistent: bool = True) -> None:
        """Register ``value`` under a group name: a parameter if trainable, else a buffer."""
        *path, leaf = map(_attribute, name.split("."))
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if trainable:
            owner.register_parameter(leaf, nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value, persistent=persistent)
        self._places[name] = (owner, leaf)
        if trainable or persistent:
            self._stored.add(name)

    def is_persistent(self, name: str) -> bool:
        """Whether a saved adapter holds this tensor, rather than its seed."""
        return name in self._stored

    def keep(self, name: str) -> None:
        """Store a buffer with the adapter: its values are not those that its seed gives."""
        owner, leaf = self._places[name]
        owner._non_persistent_buffers_set.discard(leaf)
        self._stored.add(name)

    def tensor(self, name: str) -> Tensor:
        """The current tensor of a group."""
        owner, leaf = self._places[name]
        value: Tensor | None = owner._parameters.get(leaf)
        if value is None:
            value = owner._buffers[leaf]
        assert value is not None
        return value

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every group's name and tensor, in order of creation."""
        for name in self._places:
            yield name, self.tensor(name)


_TAKEN = frozenset(dir(AdapterTensors()))


def _attribute(part: str) -> str:
    """A part of a name as an attribute of a module; `train`, `half`, … are taken there."""
    return f"{part}_" if part in _TAKEN else part


def create(
    plan: Plan, model: nn.Module, *, seed: int, dtype: torch.dtype | None = None
) -> AdapterTensors:
    """Make the tensors of a plan on the base's devices, initialised and reproducible.

    Args:
        plan: A plan with its groups.
        model: The base.
        seed: Each tensor has a generator seeded by this and by its own name, so a tensor starts
            the same whatever else is in the plan, and on every device.
        dtype: Number type of parameters; None takes that of the weights at each site.
    """
    parameters = dict(model.named_parameters())
    store, start = AdapterTensors(), Start(plan, parameters, seed)
    with torch.no_grad():
        for group in plan.groups.values():
            label, member = group.members[0]
            if label == TRAINED:
                base = parameters[member]
                store.add(group.name, base.detach().clone(), trainable=True)
                continue
            definition, site = start.definition(group), plan.sites[member]
            like = _like(site, parameters)
            value = start(group)
            if value.shape != group.shape:
                raise _misshapen(definition, group, value, site)
            kind = like.dtype if dtype is None else dtype
            value = value.to(like.device, kind if value.is_floating_point() else value.dtype)
            persistent = definition.trainable or start.reads_the_base(group)
            store.add(
                group.name, value.contiguous(), trainable=group.trainable, persistent=persistent
            )
    return store


def _misshapen(definition: TensorDef, group: ParamGroup, value: Tensor, site: Site) -> PeftError:
    return PeftError(
        f"`{definition.name}` is {list(group.shape)} at {site.id}, and its initialiser makes "
        f"{list(value.shape)} there",
        code="S408",
        help="choose smaller sizes; a matrix has rows * columns places",
    )


def tensor_seed(seed: int, name: str) -> int:
    """The seed of one tensor's generator: a stable 63-bit hash of the two."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _like(site: Site, parameters: Mapping[str, Tensor]) -> Tensor:
    """A base parameter of the site: its device and number type are the adapter's."""
    names = [name for name in (site.weight, *site.anchors) if name in parameters]
    found = next((parameters[name] for name in names if name), None)
    floating = (p for p in parameters.values() if p.is_floating_point())
    return found if found is not None else next(floating)


class Start:
    """Where the tensors of a plan start, in float32 and before they are put anywhere.

    Args:
        plan: A plan with its groups.
        parameters: The base's parameters by name.
        seed: As for ``create``.
    """

    def __init__(self, plan: Plan, parameters: Mapping[str, Tensor], seed: int) -> None:
        self._plan, self._parameters, self._seed = plan, parameters, seed
        self._place: tuple[str, str] | None = None
        self._interpret: Interpreter | None = None

    def definition(self, group: ParamGroup) -> TensorDef:
        """The declaration that a group comes from."""
        use = self._plan.uses[group.members[0][0]]
        return next(d for d in use.method.tensors if d.name == group.tensor)

    def reads_the_base(self, group: ParamGroup) -> bool:
        """Whether a tensor starts from the base's weights, by itself or by way of others.

        What does is saved, and what the seed gives is not. The base may be another one when the
        adapter is loaded, and a decomposition is not the same to the last bit on every machine.
        """
        defined = {d.name: d for d in self._plan.uses[group.members[0][0]].method.tensors}
        pending, seen = [group.tensor], set[str]()
        while pending:
            name = pending.pop()
            if name not in defined:
                return True
            init = defined[name].init
            if name not in seen and init.expression is not None:
                pending += names(init.expression)
            seen.add(name)
        return False

    def __call__(self, group: ParamGroup) -> Tensor:
        """The initial value of a group; that of its first site, where it is shared."""
        label, member = group.members[0]
        use, site = self._plan.uses[label], self._plan.sites[member]
        kind = torch.long if self.definition(group).kind == "int" else torch.float32
        if _like(site, self._parameters).is_meta:
            return torch.empty(group.shape, device="meta", dtype=kind)
        method = fixed(use.method, use.args)
        init = next(d for d in method.tensors if d.name == group.tensor).init
        interpret = self._interpreter(label, site)
        if init.expression is None:
            generator = torch.Generator().manual_seed(tensor_seed(self._seed, group.name))
            return _drawn(init, group, generator, interpret)
        value = interpret(init.expression)
        if not isinstance(value, Tensor):
            value = torch.full(group.shape, float(value))
        return (
            value.expand(group.shape).clone() if value.dim() < len(group.shape) else value.clone()
        )

    def _interpreter(self, label: str, site: Site) -> Interpreter:
        """One for all tensors of a site, so that its weight is taken apart once."""
        if self._interpret is None or self._place != (label, site.id):
            use, known = self._plan.uses[label], dict[str, Tensor]()
            groups = self._tensors(label, site)

            def lookup(name: str) -> Tensor:
                if name not in known:
                    if name in groups:
                        known[name] = self(self._plan.groups[groups[name]])
                    else:
                        known[name] = base_value(site, name, self._parameters).float()
                return known[name]

            self._place = (label, site.id)
            self._interpret = Interpreter(torch, site_sizes(use.method, use.args, site), lookup)
        return self._interpret

    def _tensors(self, label: str, site: Site) -> Mapping[str, str]:
        return next(p for p in self._plan.placements if p.label == label).tensors[site.id]


def _drawn(init: Init, group: ParamGroup, generator: torch.Generator, value: Interpreter) -> Tensor:
    assert init.name is not None
    call = InitCall(
        t=torch,
        shape=group.shape,
        generator=generator,
        keywords={key: value(expr) for key, expr in init.keywords},
        args=tuple(value(expr) for expr in init.args),
    )
    made: Tensor = INITIALISERS[init.name].make(call)
    return made


def base_value(site: Site, name: str, parameters: Mapping[str, Tensor]) -> Any:
    """``W`` or ``b`` of a site as the language sees it: ``[d_h, d_x]``, the role's rows alone."""
    parameter = site.weight if name == "W" else site.bias
    assert parameter is not None
    value = parameters[parameter].detach()
    if name == "W" and "expert" in site.dims:
        value = value.select(0, site.dims["expert"])
    if name == "W" and site.transposed:
        value = value.transpose(0, 1)
    return value if site.rows is None else select(value, site.rows, axis=0)

"""Where an adapter's tensors start: drawn from a seed, or computed from the base's weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from peftlang.capture import Weights
from peftlang.emit.rows import select
from peftlang.ir.expr import names
from peftlang.ir.inits import INITIALISERS, InitCall
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Init, Method, TensorDef, fixed
from peftlang.ir.plan import ParamGroup, Plan, Site
from peftlang.ir.sizes import site_sizes


def tensor_seed(seed: int, name: str) -> int:
    """The seed of one tensor's generator: a stable 63-bit hash of the two."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def like_at(site: Site, parameters: Mapping[str, Tensor]) -> Tensor:
    """A base parameter of the site: its device and number type are the adapter's."""
    look = parameters.like if isinstance(parameters, Weights) else parameters.__getitem__
    names = [name for name in (site.weight, *site.anchors) if name in parameters]
    each = (look(name) for name in (*names, *parameters) if name)
    return next(found for found in each if found.is_floating_point())


class Start:
    """Where the tensors of a plan start, in float32 and before they are put anywhere.

    Args:
        plan: A plan with its groups.
        parameters: The base's parameters by name.
        seed: As for ``create``.
    """

    def __init__(self, plan: Plan, parameters: Mapping[str, Tensor], seed: int) -> None:
        self.plan = plan
        self._parameters, self._seed = parameters, seed
        self._place: tuple[str, str] | None = None
        self._interpret: Interpreter | None = None
        self._methods: dict[str, Method] = {}

    def definition(self, group: ParamGroup) -> TensorDef:
        """The declaration that a group comes from."""
        use = self.plan.uses[group.members[0][0]]
        return next(d for d in use.method.tensors if d.name == group.tensor)

    def reads_the_base(self, group: ParamGroup) -> bool:
        """Whether a tensor starts from the base's weights, by itself or by way of others.

        What does is saved, and what the seed gives is not. The base may be another one when the
        adapter is loaded, and a decomposition is not the same to the last bit on every machine.
        """
        defined = {d.name: d for d in self.plan.uses[group.members[0][0]].method.tensors}
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
        use, site = self.plan.uses[label], self.plan.sites[member]
        kind = torch.long if self.definition(group).kind == "int" else torch.float32
        if like_at(site, self._parameters).is_meta:
            return torch.empty(group.shape, device="meta", dtype=kind)
        if label not in self._methods:
            self._methods[label] = fixed(use.method, use.args)
        method = self._methods[label]
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
            use, known = self.plan.uses[label], dict[str, Tensor]()
            groups = self._tensors(label, site)

            def lookup(name: str) -> Tensor:
                if name not in known:
                    if name in groups:
                        known[name] = self(self.plan.groups[groups[name]])
                    else:
                        known[name] = base_value(site, name, self._parameters).float()
                return known[name]

            self._place = (label, site.id)
            self._interpret = Interpreter(torch, site_sizes(use.method, use.args, site), lookup)
        return self._interpret

    def _tensors(self, label: str, site: Site) -> Mapping[str, str]:
        return next(p for p in self.plan.placements if p.label == label).tensors[site.id]


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

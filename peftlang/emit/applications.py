"""What acts at each site: one method with its tensors, arguments and sizes there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from peftlang.emit.slots import Slot
from peftlang.ir.expr import Expr, Ref, names, postorder
from peftlang.ir.method import Composition, Method, fixed
from peftlang.ir.plan import ActivePlan, Placement, Site
from peftlang.ir.sizes import site_sizes
from peftlang.ir.types import Level


def reads_activations(penalty: Expr) -> bool:
    """Whether a penalty is of what runs, and not of parameters alone."""
    refs = (node for node in postorder(penalty) if isinstance(node, Ref))
    return any(ref.type.level is not Level.CONST for ref in refs)


class Acts:
    """What a method does at one site, and at which sizes."""

    method: Method

    @property
    def sizes(self) -> Mapping[str, int]:
        """Sizes of every dimension: the site's, and the integer hyper-parameters."""
        raise NotImplementedError

    @cached_property
    def carried(self) -> frozenset[str]:
        """Names of the states that the method carries."""
        return frozenset(carry.name for carry in self.method.carries)

    @cached_property
    def operands(self) -> tuple[Composition, ...]:
        """What changes what the site reads: its weights, its input, the operands of a product."""
        found = self.method.compositions
        return tuple(c for c in found if c.target != "h" and c.target not in self.carried)

    @cached_property
    def results(self) -> tuple[Composition, ...]:
        """What changes what the site makes, and the states that it hands on."""
        return tuple(c for c in self.method.compositions if c not in self.operands)

    @cached_property
    def penalties(self) -> tuple[Expr, ...]:
        """Penalties of what runs at the site."""
        return tuple(p for p in self.method.penalties if reads_activations(p))


@dataclass(frozen=True, eq=False)
class Application(Acts):
    """One method at one site of a model: whose tensors, which expressions, at which sizes.

    ``rank`` is where it stands in the order in which all that is active acts.
    """

    adapter: str
    placement: Placement
    method: Method
    site: Site
    rank: int

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Sizes of every dimension: the site's, and the integer hyper-parameters."""
        return site_sizes(
            self.method, self.placement.args, self.site, self.placement.tapped_sizes(self.site.id)
        )

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names of the site that its expressions read, and targets, which start from them."""
        method, own = self.method, {t.name for t in self.method.tensors}
        own |= {entry.name for entry in method.inputs} | {tap.name for tap in method.taps}
        values = [c.value for c in method.compositions] + [c.init for c in method.carries]
        read = names(*values, *self.penalties) - own - self.carried
        if method.insertion == "sequential" and "x" in read:
            read = (read - {"x"}) | {"h"}
        return frozenset(read | set(method.targets))

    def slot(self, name: str) -> Slot | None:
        """What holds the method's tensor or input of that name."""
        group = self.placement.tensors.get(self.site.id, {}).get(name)
        if group is not None:
            return Slot("tensor", group, self.adapter)
        if any(entry.name == name for entry in self.method.inputs):
            return Slot("input", name)
        return None

    def is_float(self, name: str) -> bool:
        """Whether a tensor or an input holds real numbers."""
        return any(d.name == name and d.kind == "float" for d in self.method.tensors) or any(
            d.name == name and d.kind == "float" for d in self.method.inputs
        )


def applications(active: Iterable[ActivePlan]) -> dict[str, list[Application]]:
    """What acts at each site, by the site's id, in the order in which it acts."""
    found: dict[str, list[Application]] = {}
    placed = ((adapter, placement) for adapter in active for placement in adapter.plan.placements)
    for rank, (adapter, placement) in enumerate(placed):
        plan = adapter.plan
        use = plan.uses[placement.label]
        method = fixed(use.method, use.args)
        for site in placement.sites:
            application = Application(adapter.name, placement, method, plan.sites[site], rank)
            found.setdefault(site, []).append(application)
    return found

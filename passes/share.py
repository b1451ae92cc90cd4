"""share: one tensor per group of sites that share it.

Requires: a resolved plan. Ensures: every tensor of every method at every site belongs to exactly
one group, whose shape is the same at all of its sites.
"""

from collections.abc import Iterator, Sequence

from peftlang.diagnostics import PeftError
from peftlang.ir.method import TensorDef
from peftlang.ir.plan import TRAINED, ParamGroup, Placement, Plan, Site
from peftlang.ir.sizes import site_sizes


def share(plan: Plan) -> Plan:
    """Return ``plan`` with its groups, and with each placement's tensors mapped to them.

    Raises:
        PeftError: S409, sites that share a tensor differ in its shape.
    """
    groups: dict[str, ParamGroup] = {}
    uses: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    placements = []
    for placement in plan.placements:
        tensors: dict[str, dict[str, str]] = {site: {} for site in placement.sites}
        for site, definition, shape in _tensors(plan, placement):
            name = group_name(plan, placement, definition, site)
            groups[name] = _joined(groups.get(name), name, definition, shape, placement, site)
            uses.setdefault(name, []).append((shape, site.id))
            tensors[site.id][definition.name] = name
        placements.append(placement.model_copy(update={"tensors": tensors}))
    for name, sites in uses.items():
        if len({shape for shape, _ in sites}) > 1:
            raise _differing(groups[name].tensor, sites)
    for name, shape in plan.train.items():
        group = f"{TRAINED}.{name}"
        groups[group] = ParamGroup(
            name=group, tensor=name, shape=shape, trainable=True, members=((TRAINED, name),)
        )
    return plan.model_copy(update={"groups": groups, "placements": tuple(placements)})


def _tensors(plan: Plan, placement: Placement) -> Iterator[tuple[Site, TensorDef, tuple[int, ...]]]:
    method = plan.uses[placement.label].method
    for site_id in placement.sites:
        site = plan.sites[site_id]
        sizes = site_sizes(method, placement.args, site, placement.tapped_sizes(site_id))
        for definition in method.tensors:
            yield site, definition, tuple(dim.evaluate(sizes) for dim in definition.dims)


def group_name(plan: Plan, placement: Placement, definition: TensorDef, site: Site) -> str:
    """The name of the tensor that ``site`` uses: label, place, and the tensor's own name.

    The place is the module path for a tensor of one site; where it is shared, what is common
    to its sites: nothing, the stack, the role, the group of layers, or the layer.
    """
    layers = f"shared.{_word(site.stack)}.{_word(site.role)}"
    if definition.group is not None and site.layer is not None:
        sizes = site_sizes(plan.uses[placement.label].method, placement.args, site)
        layers += f".{site.layer // definition.group.evaluate(sizes)}"
    place = {
        None: _of_expert(site),
        "model": "shared",
        "stack": f"shared.{_word(site.stack)}",
        "stacks": f"shared.{_word(site.role)}.{site.layer}",
        "layers": layers,
        "roles": f"shared.{_word(site.stack)}.{site.layer}",
        "experts": f"shared.{_place(site)}" if "expert" in site.dims else _place(site),
    }[definition.shared]
    return f"{placement.label}.{place}.{definition.name}"


def _place(site: Site) -> str:
    """Path and, where one module has several sites, the role."""
    return ".".join(filter(None, (site.path, _word(site.role))))


def _of_expert(site: Site) -> str:
    """The place, and which of its experts."""
    expert = site.dims.get("expert")
    return _place(site) if expert is None else f"{_place(site)}.{expert}"


def _word(text: str | None) -> str:
    return (text or "model").replace(".", "_")


def _joined(
    group: ParamGroup | None, name: str, definition: TensorDef, shape: tuple[int, ...],
    placement: Placement, site: Site,
) -> ParamGroup:  # fmt: skip
    member = (placement.label, site.id)
    if group is None:
        return ParamGroup(
            name=name, tensor=definition.name, shape=shape, trainable=definition.trainable,
            kind=definition.kind, members=(member,),
        )  # fmt: skip
    return group.model_copy(update={"members": (*group.members, member)})


SHOWN = 4
"""Most sites that an error names for each shape."""


def _differing(tensor: str, sites: Sequence[tuple[tuple[int, ...], str]]) -> PeftError:
    """The sites of a shared tensor by the shape that it has there."""
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for shape, site in sites:
        by_shape.setdefault(shape, []).append(site)
    parts = []
    for shape, found in by_shape.items():
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        parts.append(f"{list(shape)} at {', '.join(found[:SHOWN])}{more}")
    return PeftError(
        f"`{tensor}` is shared, and its sites differ: {'; '.join(parts)}",
        code="S409",
        help="share it across `layers` or `roles`, or narrow the position",
    )

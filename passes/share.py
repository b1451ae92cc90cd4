"""share: one tensor per group of sites that share it.

Requires: a resolved plan. Ensures: every tensor of every method at every site belongs to exactly
one group, whose shape is the same at all of its sites.
"""

from collections.abc import Collection, Iterator, Sequence

from peftlang.diagnostics import PeftError
from peftlang.ir.method import Adapter, Axis, TensorDef
from peftlang.ir.plan import TRAINED, ParamGroup, Placement, Plan, Site
from peftlang.ir.sizes import site_sizes
from peftlang.sites.planning import Planning


def share(work: Planning) -> None:
    """Say which tensors exist, and who uses them.

    Raises:
        PeftError: as ``shared``.
    """
    work.plan = shared(work.plan)


def shared(plan: Plan) -> Plan:
    """Return ``plan`` with its groups, and with each placement's tensors mapped to them.

    Raises:
        PeftError: S409, sites that share a tensor differ in its shape; S425, uses are to have a
            tensor in common, and none of their sites has.
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
    _check_met(plan.spec, groups.values())
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
    if not definition.shared:
        place = _of_expert(site)
    elif definition.shared == ("experts",):
        place = f"shared.{_place(site)}" if "expert" in site.dims else _place(site)
    else:
        place = ".".join(["shared", *_common(plan, placement, definition, site)])
    label = plan.spec.owner(placement.label, definition.name) if plan.spec else placement.label
    return f"{label}.{place}.{definition.name}"


KEPT: dict[Axis, frozenset[str]] = {
    "model": frozenset(),
    "stack": frozenset({"stack"}),
    "stacks": frozenset({"role", "layer"}),
    "layers": frozenset({"stack", "role"}),
    "roles": frozenset({"stack", "layer"}),
    "experts": frozenset({"stack", "role", "layer"}),
}
"""What sites that share across an axis have in common."""


def _common(plan: Plan, placement: Placement, definition: TensorDef, site: Site) -> Iterator[str]:
    """What a site has in common with all that share its tensor: what every axis leaves."""
    grouped = {"layer"} if definition.group is not None else set()
    kept = [KEPT[axis] | (grouped if axis == "layers" else set()) for axis in definition.shared]
    common = frozenset[str].intersection(*map(frozenset, kept))
    if "stack" in common:
        yield _word(site.stack)
    if "role" in common:
        yield _word(site.role)
    if definition.group is not None and site.layer is not None and "layer" in common:
        sizes = site_sizes(plan.uses[placement.label].method, placement.args, site)
        yield str(site.layer // definition.group.evaluate(sizes))
    elif definition.group is None and "layer" in common:
        yield str(site.layer)


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
    group: ParamGroup | None,
    name: str,
    definition: TensorDef,
    shape: tuple[int, ...],
    placement: Placement,
    site: Site,
) -> ParamGroup:
    member = (placement.label, site.id)
    if group is None:
        return ParamGroup(
            name=name,
            tensor=definition.name,
            shape=shape,
            trainable=definition.trainable,
            kind=definition.kind,
            members=(member,),
        )
    return group.model_copy(update={"members": (*group.members, member)})


def _check_met(spec: Adapter | None, groups: Collection[ParamGroup]) -> None:
    """Each use that is tied to others has a tensor in common with one of them at some site."""
    for tie in spec.ties if spec else ():
        users = [{label for label, _ in g.members} for g in groups if g.tensor == tie.tensor]
        met = set().union(*(found for found in users if len(found) > 1))
        alone = [use for use in tie.uses if use not in met]
        if alone:
            others = ", ".join(f"`{use}`" for use in tie.uses if use != alone[0])
            raise PeftError(
                f"`{tie.tensor}` is shared by `{alone[0]}` and {others}, and each has one of its "
                "own at every site",
                code="S425",
                help="say in the methods how far one tensor goes: `shared across model`, "
                "`across stacks and roles`",
            )


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

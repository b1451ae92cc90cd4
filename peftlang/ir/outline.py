"""Plans and sites as text: what acts where, with which tensors, in which part of the model."""

from collections.abc import Iterable, Iterator

from peftlang.ir.plan import Placement, Plan, Region, Site, Tapped

_SIZES = ("d_x", "d_h", "heads", "kv_heads", "d_head", "expert")


def outline(plan: Plan) -> str:
    """A plan in lines, as far as it is made: sites, tensors, taps, regions."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    yield f"adapter {plan.adapter}"
    for placement in plan.placements:
        arguments = ", ".join(f"{name} = {value}" for name, value in placement.args.items())
        yield ""
        own = placement.label if placement.label == placement.method else f"{placement.label}: "
        method = "" if placement.label == placement.method else placement.method
        yield f"{own}{method}({arguments}) at {placement.selector}"
        for name in placement.sites:
            yield from _site(plan.sites[name], placement)
    if plan.groups:
        yield "\ntensors"
    for group in plan.groups.values():
        shape = ", ".join(map(str, group.shape))
        kind = "" if group.kind == "float" else f" {group.kind}"
        yield f"  {group.name}: [{shape}]{kind}{'' if group.trainable else ', fixed'}"
        if len(group.members) > 1:
            yield f"    of {len(group.members)} sites"
    if plan.train and not plan.groups:
        yield "\ntrains"
        yield from (f"  {name}" for name in plan.train)
    beside = plan.concerned.keys() - plan.sites.keys()
    if beside:
        yield "\nalso looked at"
        yield from (f"  {name}" for name in plan.concerned if name in beside)


def _site(site: Site, placement: Placement) -> Iterator[str]:
    sizes = " ".join(f"{name}={site.dims[name]}" for name in _SIZES if name in site.dims)
    yield f"  {site.id}  {sizes}".rstrip()
    if site.rows is not None:
        runs = ", ".join(f"{a}:{b}" if s == 1 else f"{a}:{b}:{s}" for a, b, s in site.rows.runs)
        yield f"    rows {runs} of {site.rows.size}"
    for name, group in placement.tensors.get(site.id, {}).items():
        yield f"    {name} is {group}"
    for name, tapped in placement.taps.get(site.id, {}).items():
        yield f"    {_tap(name, tapped)}"
    if site.id in placement.regions:
        yield f"    {_region(placement.regions[site.id])}"


def _tap(name: str, tapped: Tapped) -> str:
    return f"{name} is `{tapped.value}` of {tapped.site}"


def _region(region: Region) -> str:
    where = region.path or "the model"
    if region.function:
        where = f"{region.function} {region.number + 1} of {region.count} in {where}"
    reason = " ".join((region.reason.kind, *region.reason.names))
    return f"region: {region.kind} {where} ({reason})"


def sites_text(sites: Iterable[Site]) -> str:
    """A model's sites; those of one role that differ in their layer alone are one line."""
    layers: dict[tuple[str, str], list[str]] = {}
    for site in sites:
        layers.setdefault((site.role, _in_any_layer(site)), []).append(str(site.layer))
    return "\n".join(
        f"{role:<14} {path or 'the model'}" + (f"  [{', '.join(own)}]" if own[0] != "None" else "")
        for (role, path), own in layers.items()
    )


def _in_any_layer(site: Site) -> str:
    """A site's path with a star where its layer's number stands."""
    layer = f"{site.stack}.{site.layer}"
    if site.stack is None or site.layer is None or not f"{site.path}.".startswith(f"{layer}."):
        return site.path
    return f"{site.stack}.*{site.path.removeprefix(layer)}"

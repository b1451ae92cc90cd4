"""taps: which site of the model each tap of a method reads.

Requires: a use resolved to sites. Ensures: every tap at every site names exactly one other site,
and the sizes that it states are that site's.
"""

from collections.abc import Callable, Mapping, Sequence

from peftlang.diagnostics import PeftError
from peftlang.ir.dims import Dim, Indivisible, UnboundDim
from peftlang.ir.method import TapDef, Use
from peftlang.ir.plan import Site, Tapped
from peftlang.ir.sizes import site_sizes

Candidates = Callable[[TapDef], list[Site]]


def tapped(use: Use, site: Site, candidates: Candidates) -> dict[str, tuple[Tapped, Site]]:
    """What each tap of a use reads where it is placed.

    Args:
        use: A method, placed.
        site: Where.
        candidates: The sites that a tap's target means, layers aside.

    Raises:
        PeftError: S416, a tap names no site, or several, or states a size that is another.
    """
    sizes = site_sizes(use.method, use.args, site)
    found: dict[str, tuple[Tapped, Site]] = {}
    new: dict[str, int] = {}
    for tap in use.method.taps:
        other = _one(use, tap, site, _in_layer(use, tap, site, sizes, candidates(tap)))
        bound = _sizes(use, tap, site, other, {**sizes, **new})
        new.update(bound)
        found[tap.name] = (Tapped(site=other.id, value=tap.value, sizes=bound), other)
    return found


def _in_layer(
    use: Use, tap: TapDef, site: Site, sizes: Mapping[str, int], found: Sequence[Site]
) -> list[Site]:
    if tap.layer is None:
        near = [s for s in found if (s.stack, s.layer) == (site.stack, site.layer)]
        return near if site.layer is not None and near else list(found)
    wanted = _layer(use, tap, site, sizes)
    relative = "layer" in tap.layer.symbols

    def there(other: Site) -> bool:
        layers = other.dims.get("layers", 0)
        return other.layer == (wanted + layers if wanted < 0 and not relative else wanted)

    in_layer = [other for other in found if other.layer is not None and there(other)]
    own = [other for other in in_layer if other.stack == site.stack]
    return own or in_layer


def _layer(use: Use, tap: TapDef, site: Site, sizes: Mapping[str, int]) -> int:
    assert tap.layer is not None
    try:
        return tap.layer.evaluate(sizes)
    except UnboundDim:
        raise _wrong(use, tap, site, "is in no layer, so `layer` has no meaning there") from None
    except Indivisible as fact:
        raise _wrong(use, tap, site, f"has no layer `{tap.layer}`: {fact}") from None


def _one(use: Use, tap: TapDef, site: Site, found: list[Site]) -> Site:
    if len(found) == 1:
        return found[0]
    where = f"{tap.target}" + (f" in layers[{tap.layer}]" if tap.layer is not None else "")
    if not found:
        raise _wrong(use, tap, site, f"finds nothing at `{where}`")
    several = ", ".join(s.id for s in found[:3]) + (", …" if len(found) > 3 else "")
    raise _wrong(use, tap, site, f"finds {len(found)} sites at `{where}`: {several}")


def _sizes(
    use: Use, tap: TapDef, site: Site, other: Site, sizes: Mapping[str, int]
) -> dict[str, int]:
    bound: dict[str, int] = {}
    named = tap.dims[1:] if tap.sequence else tap.dims
    own = tap.own[-len(named) :] if named else ()
    for dim, theirs in zip(named, own, strict=True):
        try:
            size = theirs.evaluate(other.dims)
        except UnboundDim:
            raise _wrong(use, tap, site, f"has no size `{theirs}` at {other.id}") from None
        known = {**sizes, **bound}
        if dim.symbols <= set(known):
            have = dim.evaluate(known)
            if have != size:
                raise _wrong(
                    use,
                    tap,
                    site,
                    f"states `{dim}`, which is {have} there, and the "
                    f"value at {other.id} has {size}",
                )
        elif dim == Dim.of(str(dim)):
            bound[str(dim)] = size
        else:
            raise _wrong(use, tap, site, f"states `{dim}`, whose size is not known there")
    return bound


def _wrong(use: Use, tap: TapDef, site: Site, what: str) -> PeftError:
    return PeftError(
        f"the tap `{tap.name}` of `{use.method.name}` at {site.id} {what}",
        code="S416",
        help="narrow the tap to one site (`in layers[…]`, `in encoder`), or the position to sites "
        "that have it",
    )

"""Which alternatives of a selector name a site."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from peftlang.ir.plan import Site
from peftlang.ir.selector import Comparison, Selector, Target

OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "<": int.__lt__,
    "<=": int.__le__,
    ">": int.__gt__,
    ">=": int.__ge__,
    "==": int.__eq__,
    "!=": int.__ne__,
}

GLOB_ROLES = ("linear", "head", "norm", "embed", "block", "module")
"""What a module path by itself means: what its own kind of module is."""


def matches(target: Target, site: Site) -> bool:
    """Whether one alternative of a selector means ``site``, its scopes included."""
    if target.kind == "glob":
        named = fnmatchcase(site.path, target.text) and site.role in GLOB_ROLES
    else:
        named = site.role == target.text
    return named and in_scope(target, site)


def in_scope(target: Target, site: Site) -> bool:
    """Whether a site lies in the layers, sides and sizes of an alternative, whatever its role."""
    layers = site.dims.get("layers", 0)
    if target.layers:
        layer = site.layer
        if layer is None or not any(r.contains(layer, layers) for r in target.layers):
            return False
    elif site.role == "prompt" and site.layer is not None:
        # Without layers it is the model's input.
        return False
    if target.sides and site.side not in target.sides:
        return False
    return not target.where or any(_all_hold(anyof, site) for anyof in target.where)


def _all_hold(comparisons: Iterable[Comparison], site: Site) -> bool:
    return all(
        c.dim in site.dims and OPERATORS[c.operator](site.dims[c.dim], c.value) for c in comparisons
    )


def place_of(selector: Selector, site: Site) -> int | None:
    """Number of the first alternative that names a site; None where none does."""
    found = (number for number, t in enumerate(selector.targets) if matches(t, site))
    return next(found, None)

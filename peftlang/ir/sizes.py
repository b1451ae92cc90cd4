"""The sizes under which a method's dimensions are evaluated at a site."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from peftlang.ir.builtins import BUILTINS, as_dim
from peftlang.ir.dims import Dim, Indivisible, UnboundDim
from peftlang.ir.expr import Apply, Scalar, postorder
from peftlang.ir.method import Method
from peftlang.ir.places import place_of
from peftlang.ir.plan import Site


def site_sizes(
    method: Method, args: Mapping[str, Scalar], site: Site,
    tapped: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:  # fmt: skip
    """Size of every dimension name: the site's, and the integer hyper-parameters.

    ``tapped`` are the sizes of what the method's taps read there (``Placement.tapped_sizes``).
    Under sequential insertion the function's input is the site's output, so ``d_x`` is its size.
    """
    hypers = {h.name: int(args[h.name]) for h in method.hypers if h.kind == "int"}
    sizes = dict(site.dims)
    if method.insertion == "sequential" and "d_h" in sizes:
        sizes["d_x"] = sizes["d_h"]
    if site.layer is not None:
        sizes["layer"] = site.layer
    place = place_of(method.position, site) if method.position else None
    if method.position and place is not None:
        sizes |= {"place": place, "places": len(method.position.targets)}
    return {**sizes, **tapped, **hypers}


def too_many(node: Apply, sizes: Mapping[str, int]) -> str | None:
    """What is wrong where an operand may not exceed a dimension and does, with these sizes.

    None where nothing is, or where the sizes do not say.
    """
    entry = BUILTINS.get(node.op)
    if entry is None or entry.at_most is None:
        return None
    index, limit = entry.at_most(node)
    count = as_dim(node.args[index])
    try:
        have, most = count.evaluate(sizes) if count is not None else 1, limit.evaluate(sizes)
    except (UnboundDim, Indivisible):
        return None
    return None if 1 <= have <= most else f"wants {have} of the {most} entries of `{limit}`"


def all_dims(method: Method) -> Iterable[tuple[Dim, str]]:
    """Every dimension of a method's tensors and expressions, and what has it."""
    for tensor in method.tensors:
        for dim in tensor.dims:
            yield dim, f"dimension `{dim}` of `{tensor.name}`"
    roots = [c.value for c in method.compositions]
    for node in postorder(*roots):
        if isinstance(node, Apply):
            for dim in node.type.dims:
                yield dim, f"dimension `{dim}` of `{node.op}`"

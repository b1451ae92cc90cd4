"""The sizes under which a method's dimensions are evaluated at a site."""

from collections.abc import Mapping

from peftlang.ir.expr import Scalar
from peftlang.ir.method import Method
from peftlang.ir.plan import Site


def site_sizes(method: Method, args: Mapping[str, Scalar], site: Site) -> dict[str, int]:
    """Size of every dimension name: the site's, and the integer hyper-parameters.

    Under sequential insertion the function's input is the site's output, so ``d_x`` is its size.
    """
    hypers = {h.name: int(args[h.name]) for h in method.hypers if h.kind == "int"}
    sizes = dict(site.dims)
    if method.insertion == "sequential" and "d_h" in sizes:
        sizes["d_x"] = sizes["d_h"]
    if site.layer is not None:
        sizes["layer"] = site.layer
    return {**sizes, **hypers}

"""The plain references of `tests/references`, by the name of their spec."""

import runpy
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

REFERENCES = Path(__file__).parents[1] / "references"
SPECS = Path(__file__).parents[2] / "specs"


@cache
def file_of(spec: str) -> dict[str, Any]:
    """What the reference file of a spec defines."""
    return runpy.run_path(str(REFERENCES / f"{spec}.py"))


def changed(spec: str, facts: dict[str, Any], params: dict[str, Tensor], **values: Any) -> Any:
    """What the reference of a spec makes of a site.

    Args:
        spec: The spec's name.
        facts: Sizes, hyper-parameters and the like, which the site has as attributes.
        params: The method's tensors.
        **values: Names in scope; those that the reference does not take are left out.
    """
    function = file_of(spec)["reference"]
    code = function.__code__
    taken = code.co_varnames[: code.co_argcount]
    given = {name: value for name, value in values.items() if name in taken}
    site = {"training": False, "p": 0.0, **facts}
    return function(Named(site, args=Named(site)), Named(params), **given)


class Named(dict[str, Any]):
    """Items that are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

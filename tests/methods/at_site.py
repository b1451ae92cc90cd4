"""A method of the standard library at one site of any role, with tensors and no model."""

from typing import Any

import torch
from torch import Tensor

from peftlang.ir.expr import Scalar
from peftlang.verifying.one_site import OneSite, one_site
from peftlang.verifying.site_case import SiteCase, place
from peftlang.verifying.subject import Subject

SIZES = {
    "d_x": 12,
    "d_h": 12,
    "heads": 4,
    "kv_heads": 2,
    "d_head": 3,
    "layers": 2,
    "layer": 1,
    "vocab": 20,
    "batch": 2,
    "tokens": 3,
    "keys": 3,
}


def at(
    spec: str,
    role: str = "attn.q",
    *,
    use: int = 0,
    sizes: dict[str, int] | None = None,
    causal: bool = False,
    **args: Scalar,
) -> OneSite:
    """A site in float64; what it reads depends on its role and sizes, not on the method.

    Args:
        spec: A name of the library, or a spec's text.
        role: Where.
        use: Which of the adapter's uses.
        sizes: Sizes other than `SIZES`.
        causal: Whether a token sees itself and earlier ones alone.
        **args: Hyper-parameters.
    """
    subject = Subject(spec)
    label = subject.build(args).uses[use].label
    case = SiteCase(role, label, SIZES | (sizes or {}), dict(args), seed=4, causal=causal)
    return one_site(place(subject, case))


def named(site: OneSite, name: str) -> Tensor:
    """The value of one of the method's lets."""
    found: Tensor = site.expressions()(dict(site.placed.method.lets)[name])
    return found


def same(got: Tensor, wanted: Tensor, within: float = 1e-10) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=within)


def alike(
    site: OneSite,
    spec: str,
    role: str = "attn.q",
    given: dict[str, Tensor] | None = None,
    **other: Any,
) -> None:
    """Another method with these tensors makes the same of the same site."""
    there = at(spec, role, **other)
    same(there.run(tensors={**there.tensors, **(given or {})}, leaves=site.leaves).h, site.run().h)

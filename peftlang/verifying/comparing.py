"""Comparing what two functions make of one site: outputs, and gradients of all that varies."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from peftlang.verifying.drawn_tensors import generator_of, seed_of
from peftlang.verifying.method_at_site import Values
from peftlang.verifying.one_site import OneSite, Outcome
from peftlang.verifying.search import Difference, Violation

TOLERANCES = {"float64": 1e-7, "float32": 2e-3, "bfloat16": 0.1}
"""Largest error relative to the largest magnitude, by number type."""

FAINT = {"float64": 1e-4, "float32": 1e-2, "bfloat16": 0.1}
"""A gradient this much smaller than the largest that it is compared beside is held to that one.

What is nothing by the equations, such as the gradient of a softmax's scores when all of it is kept,
is rounding when computed: some 1e-7 of the largest in float32.
"""

SiteFunction = Callable[[Values, Values], Outcome]
"""What a site computes, from the method's tensors and the names in scope."""


@dataclass
class Differentiated:
    """An outcome, and the gradients of a fixed random projection of it.

    Attributes:
        outcome: The outcome.
        gradients: By name: of the method's tensors and inputs, and of the site's hidden states,
            which are ``the site's q`` where a tensor of the method is called ``q`` too.
        attached: Whether the output depends on any of them.
    """

    outcome: Outcome
    gradients: Values
    attached: bool


def as_spec(site: OneSite) -> SiteFunction:
    """What the spec makes of the site."""

    def run(own: Values, values: Values) -> Outcome:
        return site.run(tensors=own, leaves={name: values[name] for name in site.leaves})

    return run


def differentiated(site: OneSite, run: SiteFunction, also: Collection[str] = ()) -> Differentiated:
    """Run a function of fresh copies of the leaves, and differentiate its output.

    Args:
        site: The site.
        run: The function.
        also: Carried states, which are differentiated besides the output where it gives them.
    """
    torch.manual_seed(seed_of(site.placed, "random"))
    own = {n: t.detach().clone().requires_grad_(t.requires_grad) for n, t in site.tensors.items()}
    leaves = {n: t.detach().clone().requires_grad_() for n, t in site.leaves.items()}
    outcome = run(own, site.values(leaves))
    wanted = {n: t for n, t in [*own.items(), *site.inputs.items()] if t.requires_grad}
    wanted |= {f"the site's {n}" if n in wanted else n: t for n, t in leaves.items()}
    gradients = {name: torch.zeros_like(value) for name, value in wanted.items()}
    parts = {"h": outcome.h, **{n: outcome.targets[n] for n in also if n in outcome.targets}}
    attached = {name: value for name, value in parts.items() if value.requires_grad}
    if attached:
        parts = {name: _projected(value, site, name) for name, value in attached.items()}
        total = torch.stack([parts[name] for name in sorted(parts)]).sum()
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            total, list(wanted.values()), allow_unused=True
        )
        pairs = zip(wanted, found, strict=True)
        gradients |= {name: gradient for name, gradient in pairs if gradient is not None}
    return Differentiated(outcome, gradients, outcome.h.requires_grad)


def _projected(value: Tensor, site: OneSite, name: str) -> Tensor:
    generator = generator_of(site.placed, f"cotangent of {name}")
    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return (value * drawn.to(value.dtype)).sum()


def compared(
    ours: Differentiated, theirs: Differentiated, dtype: str, faint: float | None = None
) -> float:
    """The largest relative error of outputs and gradients.

    Args:
        ours: What the spec gives.
        theirs: What the reference gives.
        dtype: The number type.
        faint: In place of the number type's `FAINT`.

    Raises:
        Violation: something differs.
    """
    got, wanted = ours.outcome, theirs.outcome
    both = [name for name in got.targets if name != "h" and name in wanted.targets]
    worst = checked("h", got.h, wanted.h, dtype)
    for name in both:
        worst = max(worst, checked(name, got.targets[name], wanted.targets[name], dtype))
    faint = FAINT[dtype] if faint is None else faint
    floor = faint * largest(theirs.gradients)
    for name, gradient in theirs.gradients.items():
        what = f"gradient of {name}"
        worst = max(worst, checked(what, ours.gradients[name], gradient, dtype, floor=floor))
    return worst


def largest(gradients: Values) -> float:
    """The largest magnitude in any of them."""
    return max((float(g.abs().max()) for g in gradients.values() if g.numel()), default=0.0)


def checked(what: str, got: Tensor, wanted: Tensor, dtype: str, *, floor: float = 0.0) -> float:
    """The relative error of one tensor.

    Raises:
        Violation: it is past the tolerance of the number type.
    """
    return within(what, got, wanted, TOLERANCES[dtype], floor=floor)


def within(
    what: str, got: Tensor, wanted: Tensor, tolerance: float, *, floor: float = 0.0
) -> float:
    """The error of one tensor, relative to the largest magnitude that is wanted, or to ``floor``.

    Raises:
        Violation: it is past the tolerance.
    """
    if got.shape != wanted.shape:
        raise Violation(note=f"{what} is {list(got.shape)}, and should be {list(wanted.shape)}")
    if not got.numel():
        return 0.0
    got, wanted = got.detach().double(), wanted.detach().double()
    scale = max(float(wanted.abs().max()), floor, 1e-12)
    apart = (got - wanted).abs() / scale
    apart = torch.where(torch.isfinite(apart), apart, torch.full_like(apart, float("inf")))
    same = ~torch.isfinite(got) & ((got == wanted) | (got.isnan() & wanted.isnan()))
    apart = torch.where(same, torch.zeros_like(apart), apart)
    error = float(apart.max())
    if error > tolerance:
        index = first_place(apart > tolerance)
        raise Violation(Difference(what, index, float(got[index]), float(wanted[index]), error))
    return error


def first_place(marks: Tensor) -> tuple[int, ...]:
    """The index of the first that is true."""
    return tuple(int(number) for number in marks.nonzero()[0])


def unchanged(value: Tensor, before: Tensor) -> bool:
    """Whether two tensors are the same number for number; a NaN is the same as a NaN."""
    return torch.equal(value.detach().nan_to_num(), before.detach().nan_to_num())

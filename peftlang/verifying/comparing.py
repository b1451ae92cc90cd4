"""A spec against a reference at one site: outputs, and gradients of everything that trains."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption
from torch import Tensor

from peftlang.diagnostics import PeftError
from peftlang.emit.starts import tensor_seed
from peftlang.verifying.bench import Bench, Outcome, Values, bench
from peftlang.verifying.references import Reference
from peftlang.verifying.running import (
    Broken,
    CounterExample,
    Difference,
    search,
    unless_unfit,
)
from peftlang.verifying.situation import Placed, situations
from peftlang.verifying.subject import Subject

TOLERANCES = {"float64": 1e-7, "float32": 2e-3, "bfloat16": 0.1}
"""Largest error relative to the largest magnitude, by number type."""

FAINT = {"float64": 1e-4, "float32": 1e-2, "bfloat16": 0.1}
"""A gradient this much smaller than the largest that it is compared beside is held to that one.

What is nothing by the equations, such as the gradient of a softmax's scores when all of it is kept,
is rounding when computed: some 1e-7 of the largest in float32.
"""


USABLE = 20
"""At how many sites a reference that differs is tried for what cannot be used at all."""


@dataclass(frozen=True)
class Comparison:
    """What comparing a spec with a reference came to.

    Attributes:
        reference: The reference's name.
        examples: How many sites were compared.
        worst: Largest relative error of those that agree.
        failure: The smallest site at which they differ; None where there is none.
    """

    reference: str
    examples: int
    worst: float
    failure: CounterExample | None


def compare(
    spec: str | Path | Subject, reference: Reference, *, examples: int = 60, seed: int = 0,
    use: str | None = None, tick: Callable[[int], None] = lambda _: None,
) -> Comparison:  # fmt: skip
    """Hold a spec to a reference at many small sites.

    Outputs are compared, and gradients with respect to every trainable tensor and every hidden
    state that the site reads. Sizes, hyper-parameters that the caller left free, number types,
    seeds and roles all vary; the first site that differs is shrunk.

    Args:
        spec: A spec, or a `Subject` that says more.
        reference: From `load_reference`, or any `Reference`.
        examples: How many sites.
        seed: The same seed tries the same sites.
        use: Label of the only use to compare; None for all.
        tick: Told the number of sites compared so far.

    Raises:
        PeftError: the spec is wrong; V8xx, the reference cannot be run or gives no usable answer.
    """
    subject = spec if isinstance(spec, Subject) else Subject(spec)
    drawn = situations(subject, use=use, training=reference.training)
    found = search(drawn, lambda placed: difference(placed, reference), examples=examples,
                   seed=seed, tick=tick)  # fmt: skip
    failure = None
    if found.broken is not None:
        _check_usable(drawn, reference, seed)
        failure = CounterExample(f"equals {reference.name}", found.broken.situation,
                                 found.broken.difference, found.broken.note)  # fmt: skip
    return Comparison(reference.name, found.examples, found.worst, failure)


def _check_usable(drawn: st.SearchStrategy[Placed], reference: Reference, seed: int) -> None:
    """Try a reference that differs at other sites: at the smallest, shapes fit by accident.

    Raises:
        PeftError: V8xx, at one of them it raises, or gives no usable answer.
    """

    def tried(placed: Placed) -> float:
        try:
            return difference(placed, reference)
        except Broken:
            return 0.0

    search(drawn, tried, examples=USABLE, seed=seed, shrink=False)


def difference(placed: Placed, reference: Reference) -> float:
    """The largest relative error between the spec and the reference at one site.

    What differs in float32 is rounding where float64 agrees, and no more than that of the site's
    largest gradient. A reference that knows no float64 is held to its float32.

    Raises:
        Broken: it is past the tolerance.
        PeftError: V8xx, the reference gives no usable answer.
    """
    try:
        return _difference(placed, reference)
    except Broken as broken:
        if placed.situation.dtype != "float32":
            raise
        precise = replace(placed.situation, dtype="float64")
        try:
            _difference(replace(placed, situation=precise), reference)
        except UnsatisfiedAssumption:
            raise broken from None
    return _difference(placed, reference, faint=1.0)


def _difference(placed: Placed, reference: Reference, faint: float | None = None) -> float:
    site: Bench = unless_unfit(lambda: bench(placed))

    def run(own: Values, values: Values) -> Outcome:
        return site.run(tensors=own, leaves=leaves_of(site, values))

    ours = unless_unfit(lambda: evaluated(site, run))
    carried = {carry.name for carry in placed.method.carries}
    theirs = evaluated(site, lambda own, values: _guarded(reference, site, own, values), carried)
    carried &= set(theirs.outcome.targets)
    ours = evaluated(site, run, carried) if carried else ours
    _check_answer(theirs, ours, reference, placed)
    return compared(ours, theirs, placed.situation.dtype, faint)


@dataclass
class Evaluated:
    """An outcome, and the gradients of a fixed random projection of its output."""

    outcome: Outcome
    gradients: Values
    attached: bool


def leaves_of(site: Bench, values: Values) -> Values:
    """The hidden states among the names in scope that are inputs of the whole."""
    return {name: values[name] for name in site.leaves}


def evaluated(
    site: Bench, run: Callable[[Values, Values], Outcome], also: Collection[str] = ()
) -> Evaluated:
    """Run a function of fresh copies of the leaves, and differentiate its output.

    Args:
        site: The site.
        run: The function, of the method's tensors and the names in scope.
        also: Carried states, which are differentiated besides the output where it gives them.
    """
    torch.manual_seed(tensor_seed(site.placed.situation.seed, "random"))
    own = {n: t.detach().clone().requires_grad_(t.requires_grad) for n, t in site.tensors.items()}
    leaves = {n: t.detach().clone().requires_grad_() for n, t in site.leaves.items()}
    outcome = run(own, site.values(leaves))
    wanted = {n: t for n, t in [*own.items(), *site.inputs.items()] if t.requires_grad} | leaves
    gradients = {name: torch.zeros_like(value) for name, value in wanted.items()}
    if outcome.h.requires_grad:
        total = _projected(outcome.h, site, "h")
        for name in sorted(set(also) & set(outcome.targets)):
            total = total + _projected(outcome.targets[name], site, name)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            total, list(wanted.values()), allow_unused=True
        )
        pairs = zip(wanted, found, strict=True)
        gradients |= {name: gradient for name, gradient in pairs if gradient is not None}
    return Evaluated(outcome, gradients, outcome.h.requires_grad)


def _projected(value: Tensor, site: Bench, name: str) -> Tensor:
    seed = tensor_seed(site.placed.situation.seed, f"cotangent of {name}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return (value * drawn.to(value.dtype)).sum()


def _guarded(reference: Reference, site: Bench, own: Values, values: Values) -> Outcome:
    """The reference's outcome, called twice, on copies, so that it can neither write nor keep."""
    training = site.placed.situation.training
    first = _once(reference, site, own, values, "random")
    again = _once(reference, site, own, values, "random" if training else "again")
    if not torch.equal(first.h.detach().nan_to_num(), again.h.detach().nan_to_num()):
        raise PeftError(
            f"{reference.name} gives two answers for the same inputs", code="V809",
            help="it keeps something from call to call, or draws random numbers; compute from the "
            "arguments alone",
        )  # fmt: skip
    return first


def _once(reference: Reference, site: Bench, own: Values, values: Values, seed: str) -> Outcome:
    given, seen = _copies(own), _copies(values)
    torch.manual_seed(tensor_seed(site.placed.situation.seed, seed))
    outcome = reference(site, given, seen)
    for name, value in (own | values).items():
        copy = given.get(name) if name in own else seen.get(name)
        if copy is None or not torch.equal(copy, value):
            raise PeftError(
                f"{reference.name} changes `{name}`, which it is given to read", code="V808",
                help="compute a new tensor: `h = h + delta`, not `h += delta`",
            )  # fmt: skip
    return outcome


def _copies(values: Values) -> Values:
    return {name: value.clone() for name, value in values.items()}


def _check_answer(theirs: Evaluated, ours: Evaluated, reference: Reference, placed: Placed) -> None:
    h = theirs.outcome.h
    if not bool(torch.isfinite(h).all()) and bool(torch.isfinite(ours.outcome.h).all()):
        index = _first(~torch.isfinite(h))
        raise PeftError(
            f"{reference.name} returned {h[index].item()} at {list(index)}", code="V806",
            help=f"it was called for {placed.situation}",
        )  # fmt: skip
    if ours.attached and not theirs.attached:
        raise PeftError(
            f"{reference.name} returned a value that cannot be differentiated", code="V807",
            help="use no `.detach()`, `.data`, `torch.no_grad()` or numpy around the whole of it",
        )  # fmt: skip


def compared(ours: Evaluated, theirs: Evaluated, dtype: str, faint: float | None = None) -> float:
    """The largest relative error of outputs and gradients.

    Args:
        ours: What the spec gives.
        theirs: What the reference gives.
        dtype: The number type.
        faint: In place of the number type's `FAINT`.

    Raises:
        Broken: something differs.
    """
    got, wanted = ours.outcome, theirs.outcome
    pairs = [("h", got.h, wanted.h)]
    pairs += [(name, value, wanted.targets[name]) for name, value in got.targets.items()
              if name != "h" and name in wanted.targets]  # fmt: skip
    worst = max((checked(what, a, b, dtype) for what, a, b in pairs), default=0.0)
    faint = FAINT[dtype] if faint is None else faint
    scale = max((float(g.abs().max()) for g in theirs.gradients.values() if g.numel()), default=0.0)
    for name, gradient in theirs.gradients.items():
        error = checked(f"gradient of {name}", ours.gradients[name], gradient, dtype,
                        floor=faint * scale)  # fmt: skip
        worst = max(worst, error)
    return worst


def checked(what: str, got: Tensor, wanted: Tensor, dtype: str, *, floor: float = 0.0) -> float:
    """The relative error of one tensor.

    Raises:
        Broken: it is past the tolerance of the number type.
    """
    if got.shape != wanted.shape:
        raise Broken(note=f"{what} is {list(got.shape)}, and should be {list(wanted.shape)}")
    if not got.numel():
        return 0.0
    got, wanted = got.detach().double(), wanted.detach().double()
    scale = max(float(wanted.abs().max()), floor, 1e-12)
    apart = (got - wanted).abs() / scale
    apart = torch.where(torch.isfinite(apart), apart, torch.full_like(apart, float("inf")))
    same = ~torch.isfinite(got) & ((got == wanted) | (got.isnan() & wanted.isnan()))
    apart = torch.where(same, torch.zeros_like(apart), apart)
    error = float(apart.max())
    if error > TOLERANCES[dtype]:
        index = _first(apart > TOLERANCES[dtype])
        raise Broken(Difference(what, index, float(got[index]), float(wanted[index]), error))
    return error


def _first(places: Tensor) -> tuple[int, ...]:
    found: Iterable[int] = places.nonzero()[0].tolist()
    return tuple(found)

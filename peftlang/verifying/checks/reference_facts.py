"""A spec against what a reference file says besides its function: places, tensors, starts, rates.

All of it is optional in the file:

- ``POSITIONS``, the roles that the paper acts on;
- ``FROZEN``, names of tensors that do not train; ``SHARED``, the axis that a tensor is shared
  across, by name; ``TIED``, the uses of an adapter that have a tensor in common, by its name;
- ``initial(site, W, b)``, how each tensor starts, by name: a tensor (exactly), a
  ``torch.distributions.Distribution`` whose batch shape is the tensor's shape, or a function that
  says whether many starts, stacked along a first dimension, will do; a carried state that is a
  number before the first site is among them;
- ``penalty(site, params, x, h, …)``, what joins the loss in training;
- ``rates(site)``, learning rates as multiples of the adapter's, by name, of those that have one.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from peftlang.diagnostics import PeftError
from peftlang.ir.expr import Number
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Adapter, CarryDef, TensorDef
from peftlang.ir.types import Level, Type
from peftlang.verifying.comparing import checked
from peftlang.verifying.drawn_tensors import draws, method_tensors, weights
from peftlang.verifying.one_site import OneSite, one_site
from peftlang.verifying.references.python_reference import Claim, PythonReference
from peftlang.verifying.search import Violation, of_the_spec
from peftlang.verifying.site_case import PlacedMethod

DRAWS = 4000
"""Elements that a distribution is judged by."""

KOLMOGOROV = 2.2
"""Largest distance of distributions, times the root of the number of elements: 1 in 10,000."""


def check_facts(placed: PlacedMethod, file: PythonReference) -> float:
    """Hold a use at one site to what a file says of its tensors.

    Raises:
        Violation: a tensor, its start, its rate or the penalty is another.
        UnfitSite: the spec refuses the site's sizes.
        PeftError: V802, V803, V804, a function of the file is not usable.
    """
    # A claim may be a function of the file, which raises where it is called.
    file.guard(lambda: _check_facts(placed, file), str(placed), theirs=False)
    return 0.0


def _check_facts(placed: PlacedMethod, file: PythonReference) -> None:
    site = of_the_spec(lambda: one_site(placed, initial=True))
    precise = replace(placed, case=replace(placed.case, dtype="float64"))
    _check_penalty(of_the_spec(lambda: one_site(precise)), file)
    _check_rates(site, file)
    if not file.has("initial"):
        _check_kinds(placed, file.defined, every=False)
        return
    claims = file.initial(site)
    carried = {c.name: c for c in placed.method.carries if isinstance(c.init, Number)}
    defined = {d.name: d for d in placed.method.tensors}
    if set(claims) != set(defined) | set(carried):
        raise Violation(note=f"it has {_listed([*defined, *carried])}, not {_listed(claims)}")
    _check_kinds(placed, file.defined, every=True)
    for name in defined:
        _check_start(placed, name, site.tensors[name].detach(), claims[name])
    for name, carry in carried.items():
        _check_carried(placed, carry, claims[name])


def check_uses(adapter: Adapter, said: Mapping[str, Any]) -> None:
    """Hold a spec's places to ``POSITIONS``, and what its uses share to ``TIED``.

    Args:
        adapter: The spec's adapter.
        said: What the file defines, by name.

    Raises:
        Violation: there is another, or one is missing.
    """
    wanted = said.get("POSITIONS")
    roles = [str(target) for use in adapter.uses for target in use.selector.targets]
    if wanted is not None and set(roles) != set(wanted):
        raise Violation(note=f"it is placed on {', '.join(roles)}, not on {', '.join(wanted)}")
    ties = {tie.tensor: set(tie.uses) for tie in adapter.ties}
    tied = {name: set(uses) for name, uses in said.get("TIED", {}).items()}
    for name in {**ties, **tied} if "TIED" in said or wanted is not None else ():
        if ties.get(name) != tied.get(name):
            users = sorted(ties.get(name, ()))
            how = f"shared by {_listed(users)}" if users else "each use's own"
            raise Violation(note=f"`{name}` is {how}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _check_kinds(placed: PlacedMethod, said: Mapping[str, Any], *, every: bool) -> None:
    """What trains and what is shared, where the file says so; with ``every``, nothing else is."""
    for definition in placed.method.tensors:
        if every or "FROZEN" in said:
            _check_frozen(definition, frozen=definition.name in said.get("FROZEN", ()))
        if every or "SHARED" in said:
            _check_shared(definition, said.get("SHARED", {}).get(definition.name))


def _check_frozen(definition: TensorDef, *, frozen: bool) -> None:
    if definition.trainable is frozen:
        trains = "trains" if definition.trainable else "does not train"
        raise Violation(note=f"`{definition.name}` {trains}")


def _check_shared(definition: TensorDef, shared: str | None) -> None:
    across = " and ".join(definition.shared)
    if across != (shared or ""):
        how = f"shared across {across}" if across else "not shared"
        raise Violation(note=f"`{definition.name}` is {how}")


def _check_start(placed: PlacedMethod, name: str, value: Tensor, claim: Claim) -> None:
    if isinstance(claim, Distribution):
        _check_drawn(placed, name, value, claim)
    elif isinstance(claim, Tensor):
        checked(f"start of {name}", value, claim, "float32")
    elif not claim(torch.stack(list(_draws(placed, name, value.numel())))):
        raise Violation(note=f"`{name}` does not start as it should")


def _check_drawn(placed: PlacedMethod, name: str, value: Tensor, claim: Distribution) -> None:
    """A Kolmogorov-Smirnov test of many starts."""
    if value.shape != claim.batch_shape:
        wanted = list(claim.batch_shape)
        raise Violation(note=f"{name} is {list(value.shape)}, and should be {wanted}")
    drawn = torch.cat([one.flatten() for one in _draws(placed, name, value.numel())])
    ordered = drawn.double().sort().values
    expected = _cumulative(name, claim, ordered)
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    distance = float(torch.maximum(steps[1:] - expected, expected - steps[:-1]).max())
    if distance * len(ordered) ** 0.5 > KOLMOGOROV:
        raise Violation(
            note=f"`{name}` starts with mean {drawn.mean():.4g} and deviation {drawn.std():.4g}, "
            f"which is not {claim}"
        )


def _cumulative(name: str, claim: Distribution, values: Tensor) -> Tensor:
    """The distribution function of one element.

    Raises:
        PeftError: V804, torch knows none.
    """
    try:
        return _of_one_element(claim).cdf(values)
    except (NotImplementedError, AttributeError, TypeError):
        raise PeftError(
            f"`{name}` cannot be held to {type(claim).__name__}, which has no `cdf` in torch",
            code="V804",
            help="give a function that says whether many starts, stacked, will do",
        ) from None


def _of_one_element(claim: Distribution) -> Distribution:
    """The distribution of the first element, which is that of all; arguments outside 0 to 1 fit."""
    own = {key: getattr(claim, key).flatten()[0].double() for key in claim.arg_constraints}
    made: Distribution = type(claim)(**own, validate_args=False)
    return made


def _draws(placed: PlacedMethod, name: str, count: int) -> Iterator[Tensor]:
    """The tensor as it starts, for one seed after another, until there are enough elements."""
    definition = next(d for d in placed.method.tensors if d.name == name)
    seeds = range(-(-DRAWS // max(count, 1)))
    if definition.init.expression is None:
        evaluate = Interpreter(torch, placed.sizes, dict[str, Tensor]().__getitem__)
        yield from map(draws(placed, definition, evaluate), seeds)
        return
    for seed in seeds:
        again = replace(placed, case=replace(placed.case, seed=seed))
        yield method_tensors(again, weights(again), initial=True)[name].detach()


def _check_carried(placed: PlacedMethod, carry: CarryDef, claim: Claim) -> None:
    """A state that is a number before the first site."""
    assert isinstance(carry.init, Number)
    value = torch.full(placed.shape(carry.dims), float(carry.init.value))
    if not isinstance(claim, Tensor):
        raise Violation(note=f"`{carry.name}` is {carry.init.value:g} before the first site")
    checked(f"start of {carry.name}", value, claim, "float32")


def _check_penalty(site: OneSite, file: PythonReference) -> None:
    """The penalty and its gradients are those of the file's function; 0 where it has none."""
    evaluate, penalties = site.expressions(training=True), site.placed.method.penalties
    ours = of_the_spec(lambda: [_averaged(torch.as_tensor(evaluate(p)), p.type) for p in penalties])
    theirs = [file.penalty(site)] if file.has("penalty") else []
    got, wanted = (sum(terms, torch.zeros(())) for terms in (ours, theirs))
    checked("penalty", got, wanted, "float32")
    for group in (site.inputs, site.tensors, site.leaves):
        for name, value in group.items():
            if value.requires_grad:
                slopes = _slope(got, value), _slope(wanted, value)
                checked(f"gradient of the penalty by {name}", *slopes, dtype="float32")


def _averaged(value: Tensor, have: Type) -> Tensor:
    """A penalty that differs from token to token, or row to row, counts with its mean."""
    return value if have.level is Level.CONST else value.mean()


def _slope(total: Tensor, value: Tensor) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(value)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        total, value, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(value) if found[0] is None else found[0]


def _check_rates(site: OneSite, file: PythonReference) -> None:
    """Which tensors have a learning rate of their own, and how large it is."""
    evaluate = Interpreter(None, site.placed.sizes, dict[str, Any]().__getitem__)
    defined = site.placed.method.tensors
    ours = {d.name: float(evaluate(d.rate)) for d in defined if d.rate is not None}
    theirs = file.rates(site) if file.has("rates") else {}
    for name in {**ours, **theirs}:
        got, wanted = ours.get(name, 1.0), theirs.get(name, 1.0)
        if abs(got - wanted) > 1e-6 * abs(wanted):
            raise Violation(
                note=f"`{name}` learns at {got:g} times the rate, and should at {wanted:g}"
            )

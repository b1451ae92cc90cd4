"""What a reference file states besides its function: places, tensors, starts, a penalty.

All of it is optional:

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

from collections.abc import Callable, Iterable, Iterator, Mapping
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
from peftlang.verifying.bench import Bench, _start, bench
from peftlang.verifying.comparing import checked
from peftlang.verifying.references import Params, facts_of
from peftlang.verifying.running import Broken
from peftlang.verifying.situation import Placed

DRAWS = 4000
"""Elements that a distribution is judged by."""

KOLMOGOROV = 2.2
"""Largest distance of distributions, times the root of the number of elements: 1 in 10,000."""

Claim = Tensor | Distribution | Callable[[Tensor], bool]


def check_stated(placed: Placed, stated: Mapping[str, Any]) -> None:
    """Hold one use of a spec to what a reference file states.

    Args:
        placed: The use, at one site.
        stated: What the reference file defines, by name.

    Raises:
        Broken: a tensor, its start, or the penalty is another.
    """
    site = bench(placed, initial=True)
    precise = replace(placed, situation=replace(placed.situation, dtype="float64"))
    _check_penalty(bench(precise), stated.get("penalty"))
    _check_rates(site, stated.get("rates"))
    initial = stated.get("initial")
    if initial is None:
        _check_kinds(placed, stated, every=False)
        return
    claims: Mapping[str, Claim] = initial(
        facts_of(site), site.frozen.get("W"), site.frozen.get("b")
    )
    carried = {c.name: c for c in placed.method.carries if isinstance(c.init, Number)}
    defined = {d.name: d for d in placed.method.tensors}
    if set(claims) != set(defined) | set(carried):
        raise Broken(note=f"it has {_listed([*defined, *carried])}, not {_listed(claims)}")
    _check_kinds(placed, stated, every=True)
    for name in defined:
        _check_start(placed, name, site.tensors[name].detach(), claims[name])
    for name, carry in carried.items():
        _check_carried(placed, carry, claims[name])


def _check_carried(placed: Placed, carry: CarryDef, claim: Claim) -> None:
    """A state that is a number before the first site."""
    assert isinstance(carry.init, Number)
    value = torch.full(placed.shape(carry.dims), float(carry.init.value))
    if not isinstance(claim, Tensor):
        raise Broken(note=f"`{carry.name}` is {carry.init.value:g} before the first site")
    checked(f"start of {carry.name}", value, claim, "float32")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def check_uses(adapter: Adapter, stated: Mapping[str, Any]) -> None:
    """Hold a spec's places to the file's ``POSITIONS``, and what its uses share to ``TIED``.

    Raises:
        Broken: there is another, or one is missing.
    """
    wanted = stated.get("POSITIONS")
    roles = [str(target) for use in adapter.uses for target in use.selector.targets]
    if wanted is not None and set(roles) != set(wanted):
        raise Broken(note=f"it is placed on {', '.join(roles)}, not on {', '.join(wanted)}")
    ties = {tie.tensor: set(tie.uses) for tie in adapter.ties}
    tied = {name: set(uses) for name, uses in stated.get("TIED", {}).items()}
    for name in {**ties, **tied} if "TIED" in stated or wanted is not None else ():
        if ties.get(name) != tied.get(name):
            users = sorted(ties.get(name, ()))
            how = f"shared by {_listed(users)}" if users else "each use's own"
            raise Broken(note=f"`{name}` is {how}")


def _check_kinds(placed: Placed, stated: Mapping[str, Any], *, every: bool) -> None:
    """What trains and what is shared, where the file says so; with ``every``, nothing else is."""
    for definition in placed.method.tensors:
        if every or "FROZEN" in stated:
            _check_frozen(definition, frozen=definition.name in stated.get("FROZEN", ()))
        if every or "SHARED" in stated:
            _check_shared(definition, stated.get("SHARED", {}).get(definition.name))


def _check_frozen(definition: TensorDef, *, frozen: bool) -> None:
    if definition.trainable is frozen:
        trains = "trains" if definition.trainable else "does not train"
        raise Broken(note=f"`{definition.name}` {trains}")


def _check_shared(definition: TensorDef, shared: str | None) -> None:
    name = definition.name
    across = " and ".join(definition.shared)
    if across != (shared or ""):
        raise Broken(note=f"`{name}` is " + (f"shared across {across}" if across else "not shared"))


def _check_start(placed: Placed, name: str, value: Tensor, claim: Claim) -> None:
    if isinstance(claim, Distribution):
        _check_drawn(placed, name, value, claim)
    elif isinstance(claim, Tensor):
        checked(f"start of {name}", value, claim, "float32")
    elif not claim(torch.stack(list(_draws(placed, name, value.numel())))):
        raise Broken(note=f"`{name}` does not start as it should")


def _check_drawn(placed: Placed, name: str, value: Tensor, claim: Distribution) -> None:
    if value.shape != claim.batch_shape:
        raise Broken(note=f"{name} is {list(value.shape)}, and should be {list(claim.batch_shape)}")
    drawn = torch.cat([one.flatten() for one in _draws(placed, name, value.numel())])
    ordered = drawn.double().sort().values
    expected = _cumulative(name, claim, ordered)
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    distance = float(torch.maximum(steps[1:] - expected, expected - steps[:-1]).max())
    if distance * len(ordered) ** 0.5 > KOLMOGOROV:
        raise Broken(
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


def _draws(placed: Placed, name: str, count: int) -> Iterator[Tensor]:
    """The tensor as it starts, for one seed after another, until there are enough elements."""
    definition = next(d for d in placed.method.tensors if d.name == name)
    for seed in range(-(-DRAWS // max(count, 1))):
        again = replace(placed, situation=replace(placed.situation, seed=seed))
        if definition.init.expression is None:
            values: dict[str, Tensor] = {}
            yield _start(again, definition, Interpreter(torch, again.sizes, values.__getitem__))
        else:
            yield bench(again, initial=True).tensors[name].detach()


def _check_penalty(site: Bench, penalty: Callable[..., Any] | None) -> None:
    """The penalty and its gradients are those of the file's function; 0 where it has none."""
    method, values = site.placed.method, site.values()
    own = {**site.inputs, **site.tensors}
    interpret = site.interpreter(method, own, values, training=True)
    ours = [_averaged(torch.as_tensor(interpret(p)), p.type) for p in method.penalties]
    theirs = (
        []
        if penalty is None
        else [penalty(facts_of(site), Params(site.tensors), {**values, **site.inputs})]
    )
    got, wanted = (sum(terms, torch.zeros(())) for terms in (ours, theirs))
    checked("penalty", got, wanted, "float32")
    for name, value in {**own, **site.leaves}.items():
        if not value.requires_grad:
            continue
        slopes = _slope(got, value), _slope(wanted, value)
        checked(f"gradient of the penalty by {name}", *slopes, dtype="float32")


def _averaged(value: Tensor, have: Type) -> Tensor:
    """A penalty that differs from token to token, or row to row, counts with its mean."""
    return value if have.level is Level.CONST else value.mean()


def _check_rates(site: Bench, rates: Callable[..., Mapping[str, float]] | None) -> None:
    """Which tensors have a learning rate of their own, and how large it is."""
    interpret = Interpreter(None, site.placed.sizes, dict[str, Any]().__getitem__)
    defined = site.placed.method.tensors
    ours = {d.name: float(interpret(d.rate)) for d in defined if d.rate is not None}
    theirs = {} if rates is None else dict(rates(facts_of(site)))
    for name in ours | theirs:
        got, wanted = ours.get(name, 1.0), theirs.get(name, 1.0)
        if abs(got - wanted) > 1e-6 * abs(wanted):
            raise Broken(
                note=f"`{name}` learns at {got:g} times the rate, and should at {wanted:g}"
            )


def _slope(total: Tensor, value: Tensor) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(value)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        total, value, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(value) if found[0] is None else found[0]

"""Each property of the language, tried at one site with real tensors."""

from collections.abc import Callable
from dataclasses import replace
from operator import eq, ge, gt, le, lt

import torch
from torch import Tensor

from peftlang.ir.expr import DimValue
from peftlang.ir.method import Contract
from peftlang.ir.positions import BLOCK, CORE, EMBED, POSITIONS, PROJECTION, PROMPT
from peftlang.ir.types import Level, Type
from peftlang.verifying.comparing import (
    TOLERANCES,
    as_spec,
    checked,
    compared,
    differentiated,
    within,
)
from peftlang.verifying.method_at_site import Values
from peftlang.verifying.one_site import OneSite, one_site
from peftlang.verifying.references.spec_reference import run_as
from peftlang.verifying.search import Difference, Violation, of_the_spec
from peftlang.verifying.site_case import PlacedMethod, order_matters
from peftlang.verifying.subject import Subject

EXACT = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 2e-2}
"""What rounding may do to a function that is the identity in exact arithmetic."""

CHAIN = 3
"""Sites that a carried state passes through, where a method is tried as it starts."""

Check = Callable[[PlacedMethod], float]
"""Returns the largest error at a site, or raises `Violation` or `UnfitSite`."""


def check_of(contract: Contract, subject: Subject) -> Check:
    """The check of one contract.

    Args:
        contract: As the method has it with the default arguments.
        subject: The spec, in which other methods are found.
    """
    found: dict[str, Callable[[PlacedMethod, Contract], float]] = {
        "identity_at_init": _identity,
        "mergeable": _mergeable,
        "trainable": _trainable,
        "token_local": _local,
        "causal": _local,
        "orthogonal": _orthogonal,
        "symmetric": _symmetric,
        "rank": _rank,
        "equivalent": lambda placed, here: _equivalent(placed, here, subject),
    }
    check = found[contract.property]
    return lambda placed: check(placed, _here(contract, placed))


def _here(contract: Contract, placed: PlacedMethod) -> Contract:
    """The contract with the hyper-parameters of the site's own method."""
    own = (c for c in placed.method.contracts if (c.text, c.span) == (contract.text, contract.span))
    return next(own, contract)


def _identity(placed: PlacedMethod, _: Contract) -> float:
    """With tensors as they start the output is the site's own, at each site that states pass."""
    carried: Values = {}
    worst = 0.0
    for number in range(CHAIN if placed.method.carries else 1):
        case = replace(placed.case, seed=placed.case.seed + number)
        error, carried = _unchanged(replace(placed, case=case), carried)
        worst = max(worst, error)
    return worst


def _unchanged(placed: PlacedMethod, carried: Values) -> tuple[float, Values]:
    """How far a site's output is from its own, and the states that it hands on.

    Args:
        placed: The method, which starts there.
        carried: The states that the site is handed; none at the first one.
    """
    site = of_the_spec(lambda: one_site(placed, initial=True))
    with torch.no_grad():
        site.inputs |= carried or of_the_spec(lambda: _first_states(site))
        outcome = of_the_spec(site.run)
        error = within("h", outcome.h, site.values()["h"], EXACT[placed.case.dtype])
    handed_on = {
        c.target: _spread_out(outcome.targets[c.target], c.value.type, site.inputs[c.target])
        for c in placed.method.compositions
        if c.target in {carry.name for carry in placed.method.carries}
    }
    return error, handed_on


def _first_states(site: OneSite) -> Values:
    """What each carried state is before the first site."""
    evaluate = site.expressions()
    return {
        carry.name: _spread_out(evaluate(carry.init), carry.init.type, site.inputs[carry.name])
        for carry in site.placed.method.carries
    }


def _spread_out(value: Tensor | float, have: Type, like: Tensor) -> Tensor:
    """A value at every token, and a number in every element."""
    found = torch.as_tensor(value, dtype=like.dtype)
    if have.level is Level.EXAMPLE:
        found = found.unsqueeze(1)
    while have.level is not Level.CONST and found.dim() < like.dim():
        found = found.unsqueeze(-1)
    return found.expand_as(like)


def _trainable(placed: PlacedMethod, contract: Contract) -> float:
    """As many numbers train as the contract says."""
    site = of_the_spec(lambda: one_site(placed))
    got = sum(value.numel() for value in site.trained.values())
    return _held("trained numbers", got, _bound(contract, placed), contract.relation or "==")


def _bound(contract: Contract, placed: PlacedMethod) -> int:
    assert isinstance(contract.bound, DimValue)
    return contract.bound.dim.evaluate(placed.sizes)


def _held(what: str, got: int, bound: int, relation: str) -> float:
    compare = {"==": eq, "<=": le, ">=": ge, "<": lt, ">": gt}[relation]
    if not compare(got, bound):
        raise Violation(Difference(what, (), got, bound, abs(got - bound) / max(bound, 1)))
    return 0.0


def _mergeable(placed: PlacedMethod, _: Contract) -> float:
    """Affine in what the neighbouring weights read, alike for every token and row."""
    role, dtype = placed.case.role, placed.case.dtype
    scope = POSITIONS[role]
    if any(scope is other for other in (CORE, BLOCK, PROMPT)):
        raise Violation(note=f"`{role}` has no weights to take the change")
    site = of_the_spec(lambda: one_site(placed))
    if scope is EMBED:
        return _by_row(site)
    name = "h" if scope is not PROJECTION and "h" in site.leaves else "x"
    first, second, third = (_one_vector(site, name, number) for number in range(3))
    outputs = [_output(site, {name: value}, others=1) for value in (first, second, third)]
    mixed = _output(site, {name: first + second - third}, others=2)
    tolerance = TOLERANCES[dtype]
    error = within("h", mixed, outputs[0] + outputs[1] - outputs[2], tolerance)
    flat = mixed.flatten(0, 1)
    return max(error, within("h", mixed, flat[0].expand_as(mixed), tolerance))


def _by_row(site: OneSite) -> float:
    """The rows of an embedding take the change where equal tokens stay equal."""
    with torch.no_grad():
        h = of_the_spec(lambda: site.run().h).flatten(0, 1)
    ids = site.ids().flatten()
    first = (ids.unsqueeze(1) == ids).int().argmax(1)
    return within("h", h, h[first], TOLERANCES[site.placed.case.dtype])


def _one_vector(site: OneSite, name: str, number: int) -> Tensor:
    """One random vector, the same at every token and row."""
    like = site.leaves[name]
    generator = torch.Generator().manual_seed(site.placed.case.seed)
    drawn = torch.randn([3, *like.shape[2:]], generator=generator, dtype=torch.float64)[number]
    spread: Tensor = drawn.to(like.dtype).expand(like.shape)
    return spread


def _output(site: OneSite, given: Values, *, others: int) -> Tensor:
    """The output with some hidden states given, and every other one drawn anew."""
    generator = torch.Generator().manual_seed(site.placed.case.seed + others)

    def anew(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)

    drawn = {name: anew(value) for name, value in site.leaves.items()}
    with torch.no_grad():
        found: Tensor = of_the_spec(lambda: site.run(leaves={**drawn, **given}).h)
    return found


def _local(placed: PlacedMethod, contract: Contract) -> float:
    """Change one token's values; the method's outputs at the others stay as they were."""
    strict = contract.property == "token_local"
    sees_all = order_matters(placed.method, placed.case.role) and not placed.case.causal
    if POSITIONS[placed.case.role] is PROMPT:
        raise Violation(note="every token may read what is put before the sequence")
    site = of_the_spec(lambda: one_site(placed))
    tokens = placed.case.sizes["tokens"]
    with torch.no_grad():
        before = of_the_spec(site.run).h
        for at in range(tokens):
            after = site.run(leaves=_moved(site, at, keys=not strict)).h
            others = (t for t in range(tokens) if t != at)
            for token in others if strict else range(0 if sees_all else at):
                what = f"h at token {token} (token {at} moved)"
                checked(what, after[:, token], before[:, token], placed.case.dtype)
    return 0.0


def _moved(site: OneSite, at: int, *, keys: bool) -> Values:
    """The hidden states, those of one token moved, and of its key where ``keys`` says so."""
    scope = POSITIONS[site.placed.case.role]
    found = {}
    for name, value in site.leaves.items():
        value = value.detach().clone()
        if scope[name].level is Level.TOKEN or (keys and at < value.shape[1]):
            value[:, at] += 1
        found[name] = value
    return found


def _matrix(placed: PlacedMethod, contract: Contract) -> Tensor:
    """What a contract speaks of."""
    site = of_the_spec(lambda: one_site(placed))
    subject = contract.subject
    assert subject is not None
    with torch.no_grad():
        matrix: Tensor = of_the_spec(lambda: site.expressions()(subject)).double()
    return matrix


def _orthogonal(placed: PlacedMethod, contract: Contract) -> float:
    matrix = _matrix(placed, contract)
    wide = matrix.shape[-2] <= matrix.shape[-1]
    gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
    wanted = torch.eye(gram.shape[-1], dtype=gram.dtype).expand_as(gram)
    what = "M M'" if wide else "M' M"
    return within(what, gram, wanted, 1e-9 if placed.case.dtype == "float64" else 1e-3)


def _symmetric(placed: PlacedMethod, contract: Contract) -> float:
    matrix = _matrix(placed, contract)
    return within("M", matrix, matrix.mT, 1e-9 if placed.case.dtype == "float64" else 1e-4)


def _rank(placed: PlacedMethod, contract: Contract) -> float:
    matrix, bound = _matrix(placed, contract), _bound(contract, placed)
    tolerance = 1e-9 if placed.case.dtype == "float64" else 1e-4
    got = int(torch.linalg.matrix_rank(matrix, rtol=tolerance).max())
    return _held("rank", got, bound, contract.relation or "<=")


def _equivalent(placed: PlacedMethod, contract: Contract, subject: Subject) -> float:
    """Another method makes the same of the site, with the same tensors."""
    site = of_the_spec(lambda: one_site(placed))
    evaluate = site.expressions()
    args = {name: evaluate(value) for name, value in contract.arguments}
    assert contract.method is not None
    use = subject.other(contract.method, placed.adapter).build(args).uses[0]
    ours = of_the_spec(lambda: differentiated(site, as_spec(site)))
    theirs = differentiated(
        site, lambda own, values: run_as(use, site, own, values, dict(contract.tensors))
    )
    return compared(ours, theirs, placed.case.dtype)

"""Each property of the language, tried at one site with real tensors."""

from collections.abc import Callable

import torch
from hypothesis import assume
from torch import Tensor

from peftlang.ir.expr import Apply, DimValue, Expr, Ref, children, postorder
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Contract, Method
from peftlang.ir.positions import BLOCK, CORE, EMBED, POSITIONS, PROJECTION, PROMPT
from peftlang.ir.types import Level
from peftlang.verifying.bench import Bench, Values, bench
from peftlang.verifying.comparing import TOLERANCES, checked, compared, evaluated, leaves_of
from peftlang.verifying.others import run_as
from peftlang.verifying.running import Broken, Difference, unless_unfit
from peftlang.verifying.situation import Placed, looks_about
from peftlang.verifying.subject import Subject

EXACT = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 2e-2}
"""What rounding may do to a function that is the identity in exact arithmetic."""

Check = Callable[[Placed], float]


def check_of(contract: Contract, subject: Subject) -> Check:
    """The check of one contract; it returns its largest error, or raises `Broken`."""
    found: dict[str, Callable[[Placed, Contract], float]] = {
        "identity_at_init": _identity,
        "mergeable": _mergeable,
        "trainable": _trainable,
        "token_local": _local,
        "causal": _local,
        "orthogonal": _orthogonal,
        "symmetric": _symmetric,
        "rank": _rank,
    }
    if contract.property == "equivalent":
        return lambda placed: _equivalent(placed, _here(contract, placed), subject)
    return lambda placed: found[contract.property](placed, _here(contract, placed))


def _here(contract: Contract, placed: Placed) -> Contract:
    """The contract with the hyper-parameters of the site's own method."""
    own = (c for c in placed.method.contracts if (c.text, c.span) == (contract.text, contract.span))
    return next(own, contract)


class GradientsFlow:
    """Every tensor that trains has a finite gradient, and somewhere one that is not zero.

    A gate that is shut, or one key alone, leaves a tensor without a gradient at some sites.

    Attributes:
        last: The site that was tried last.
    """

    def __init__(self) -> None:
        self._alive: set[str] = set()
        self._dead: dict[str, None] = {}
        self.last: Placed | None = None

    def __call__(self, placed: Placed) -> float:
        """Look at one site; see `Check`."""
        site = unless_unfit(lambda: bench(placed))
        assume(all(value.numel() for value in site.tensors.values()))
        found = unless_unfit(lambda: evaluated(
            site, lambda own, values: site.run(tensors=own, leaves=leaves_of(site, values))
        ))  # fmt: skip
        self.last = placed
        for name in site.trained:
            gradient = found.gradients[name]
            if not bool(torch.isfinite(gradient).all()):
                raise Broken(note=f"the gradient of `{name}` is not finite")
            if bool(gradient.abs().max() > 0):
                self._alive.add(name)
            elif name in learned(placed.method) or not placed.method.penalties:
                self._dead.setdefault(name)
        return 0.0

    @property
    def dead(self) -> list[str]:
        """Tensors whose gradient was zero at every site so far."""
        return [name for name in self._dead if name not in self._alive]


def learned(method: Method) -> set[str]:
    """Names that the output depends on by a path that gradients take."""

    def below(node: Expr) -> tuple[Expr, ...]:
        stopped = isinstance(node, Apply) and node.op == "stop_gradient"
        return () if stopped else children(node)

    nodes = postorder(*(c.value for c in method.compositions), below=below)
    return {node.name for node in nodes if isinstance(node, Ref)}


def _identity(placed: Placed, _: Contract) -> float:
    site = unless_unfit(lambda: bench(placed, initial=True))
    with torch.no_grad():
        wanted = site.values()["h"]
        got = unless_unfit(lambda: site.run().h)
    return _close("h", got, wanted, EXACT[placed.situation.dtype])


def _close(what: str, got: Tensor, wanted: Tensor, tolerance: float) -> float:
    if got.shape != wanted.shape:
        raise Broken(note=f"{what} is {list(got.shape)}, and the base's is {list(wanted.shape)}")
    got, wanted = got.detach().double(), wanted.detach().double()
    apart = (got - wanted).abs() / max(float(wanted.abs().max()), 1e-12)
    error = float(apart.max())
    if not error <= tolerance:
        index = tuple((~(apart <= tolerance)).nonzero()[0].tolist())
        raise Broken(Difference(what, index, float(got[index]), float(wanted[index]), error))
    return error


def _trainable(placed: Placed, contract: Contract) -> float:
    assert isinstance(contract.bound, DimValue)
    site = unless_unfit(lambda: bench(placed))
    got = sum(value.numel() for value in site.trained.values())
    wanted = contract.bound.dim.evaluate(placed.sizes)
    holds = {
        "==": got == wanted, "<=": got <= wanted, ">=": got >= wanted,
        "<": got < wanted, ">": got > wanted,
    }[contract.relation or "=="]  # fmt: skip
    if not holds:
        raise Broken(Difference("trained numbers", (), got, wanted, abs(got - wanted) / wanted))
    return 0.0


def _mergeable(placed: Placed, _: Contract) -> float:
    """Affine in what the neighbouring weights read, alike for every token and row."""
    role = placed.situation.role
    scope = POSITIONS[role]
    if scope in (CORE, BLOCK, PROMPT):
        raise Broken(note=f"`{role}` has no weights to take the change")
    site = unless_unfit(lambda: bench(placed))
    if scope is EMBED:
        return _by_id(site)
    name = "h" if scope is not PROJECTION and "h" in site.leaves else "x"
    first, second, third = (_spread(site, name, key) for key in ("first", "second", "third"))
    outputs = unless_unfit(lambda: [
        _output(site, {name: value}, other="1") for value in (first, second, third)
    ])  # fmt: skip
    mixed = _output(site, {name: first + second - third}, other="2")
    tolerance = TOLERANCES[placed.situation.dtype]
    error = _close("h", mixed, outputs[0] + outputs[1] - outputs[2], tolerance)
    flat = mixed.flatten(0, 1)
    return max(error, _close("h", mixed, flat[0].expand_as(mixed), tolerance))


def _by_id(site: Bench) -> float:
    """The rows of an embedding take the change where equal tokens stay equal."""
    with torch.no_grad():
        h = unless_unfit(lambda: site.run().h).flatten(0, 1)
    ids = site.embedded().flatten()
    first = (ids.unsqueeze(1) == ids).int().argmax(1)
    return _close("h", h, h[first], TOLERANCES[site.placed.situation.dtype])


def _spread(site: Bench, name: str, key: str) -> Tensor:
    """One random vector at every token and row."""
    like = site.leaves[name]
    generator = torch.Generator().manual_seed(site.placed.situation.seed)
    rows = {"first": 0, "second": 1, "third": 2}[key]
    drawn = torch.randn([3, *like.shape[2:]], generator=generator, dtype=torch.float64)[rows]
    spread: Tensor = drawn.to(like.dtype).expand(like.shape)
    return spread


def _output(site: Bench, changed: Values, *, other: str) -> Tensor:
    """The output with some hidden states given and every other one drawn anew."""
    generator = torch.Generator().manual_seed(site.placed.situation.seed + int(other))
    leaves = {
        name: changed.get(name, torch.randn(value.shape, generator=generator, dtype=torch.float64)
                          .to(value.dtype))
        for name, value in site.leaves.items()
    }  # fmt: skip
    with torch.no_grad():
        return site.run(leaves=leaves).h


def _local(placed: Placed, contract: Contract) -> float:
    """Change one token's values; the method's outputs at the others stay as they were."""
    site = unless_unfit(lambda: bench(placed))
    scope, tokens = POSITIONS[placed.situation.role], placed.situation.sizes["tokens"]
    strict = contract.property == "token_local"
    free = looks_about(placed.method, placed.situation.role) and not placed.situation.causal
    if scope is PROMPT:
        raise Broken(note="every token may read what is put before the sequence")
    with torch.no_grad():
        before = unless_unfit(lambda: site.run().h)
        for at in range(tokens):
            after = site.run(leaves=_moved(site, at, keys=not strict)).h
            kept = [t for t in range(tokens) if t != at and (strict or (t < at and not free))]
            for t in kept:
                checked(f"h at token {t} (token {at} moved)", after[:, t], before[:, t],
                        placed.situation.dtype)  # fmt: skip
    return 0.0


def _moved(site: Bench, at: int, *, keys: bool) -> Values:
    scope = POSITIONS[site.placed.situation.role]
    found = {}
    for name, value in site.leaves.items():
        value = value.detach().clone()
        if scope[name].level is Level.TOKEN or (keys and at < value.shape[1]):
            value[:, at] += 1
        found[name] = value
    return found


def _subject(placed: Placed, contract: Contract) -> Tensor:
    site = unless_unfit(lambda: bench(placed))
    assert contract.subject is not None
    values = site.values()

    def lookup(name: str) -> Tensor:
        if name == "x" and placed.method.insertion == "sequential":
            name = "h"
        own: Values = {**values, **site.inputs, **site.tensors}
        return own[name]

    interpret = Interpreter(torch, placed.sizes, lookup)
    subject = contract.subject
    with torch.no_grad():
        found = unless_unfit(lambda: interpret(subject))
    matrix: Tensor = found.double()
    return matrix


def _orthogonal(placed: Placed, contract: Contract) -> float:
    matrix = _subject(placed, contract)
    wide = matrix.shape[-2] <= matrix.shape[-1]
    gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
    wanted = torch.eye(gram.shape[-1], dtype=gram.dtype).expand_as(gram)
    what = "M M'" if wide else "M' M"
    return _close(what, gram, wanted, 1e-9 if placed.situation.dtype == "float64" else 1e-3)


def _symmetric(placed: Placed, contract: Contract) -> float:
    matrix = _subject(placed, contract)
    return _close("M", matrix, matrix.mT, 1e-9 if placed.situation.dtype == "float64" else 1e-4)


def _rank(placed: Placed, contract: Contract) -> float:
    assert isinstance(contract.bound, DimValue)
    matrix, bound = _subject(placed, contract), contract.bound.dim.evaluate(placed.sizes)
    tolerance = 1e-9 if placed.situation.dtype == "float64" else 1e-4
    got = int(torch.linalg.matrix_rank(matrix, rtol=tolerance).max())
    holds = {"<=": got <= bound, "<": got < bound, "==": got == bound, ">=": got >= bound,
             ">": got > bound}[contract.relation or "<="]  # fmt: skip
    if not holds:
        raise Broken(Difference("rank", (), got, bound, abs(got - bound) / max(bound, 1)))
    return 0.0


def _equivalent(placed: Placed, contract: Contract, subject: Subject) -> float:
    site = unless_unfit(lambda: bench(placed))
    interpret = Interpreter(torch, placed.sizes, lambda name: site.tensors[name])
    args = {name: interpret(value) for name, value in contract.arguments}
    assert contract.method is not None
    use = subject.other(contract.method, placed.adapter).build(args).uses[0]
    ours = unless_unfit(lambda: evaluated(
        site, lambda own, values: site.run(tensors=own, leaves=leaves_of(site, values))
    ))  # fmt: skip
    theirs = evaluated(
        site, lambda own, values: run_as(use, site, own, values, dict(contract.tensors))
    )
    return compared(ours, theirs, placed.situation.dtype)


__all__ = ["GradientsFlow", "check_of", "learned"]

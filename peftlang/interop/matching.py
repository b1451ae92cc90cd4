"""Whether a method computes what another one does, and with which tensors and numbers.

The pattern is a method of the library, its hyper-parameters open. The other is one use of any
method, at one site. Names play no part: tensors are matched by where they stand, hyper-parameters
are solved from shapes and numbers. A method that was edited no longer matches.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from peftlang.interop.fitting import Misfit, infer
from peftlang.interop.normal import Factor, Leaf, Node, Numbers, Sum, Term, normal_form
from peftlang.ir.dims import Dim, Indivisible
from peftlang.ir.expr import Apply, Expr, Hyper, Scalar, names, postorder, substitute
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Method, Use, fixed
from peftlang.ir.plan import Site
from peftlang.ir.sizes import site_sizes

MOST_TERMS = 6
"""Sums and products longer than this are not tried in every order."""

EXACT = 1e-14
"""Two numbers that differ by less, relatively, differ by how they were computed."""


class Mismatch(Exception):
    """Why a use is not the pattern.

    Attributes:
        reason: A clause that follows the method's name.
        depth: How far the two agree: 0, not even in what they change; 1, not in the expression;
            2, in all but a detail; 3, in all but the place.
    """

    def __init__(self, reason: str, depth: int = 2) -> None:
        super().__init__(reason)
        self.depth = depth


@dataclass(frozen=True)
class Match:
    """A use that computes what the pattern does.

    Attributes:
        hypers: Value of every hyper-parameter of the pattern.
        tensors: For each tensor of the pattern, the name that the use has for it.
        effort: How many digits had to be found for hyper-parameters that the use has not under
            the same name; of several patterns, the least is the most natural.
    """

    hypers: dict[str, Scalar]
    tensors: dict[str, str]
    effort: int = 0


@dataclass(frozen=True)
class _State:
    """What has been matched so far; numbers and dimensions are compared when all tensors are."""

    tensors: Mapping[str, str]
    numbers: tuple[tuple[Numbers, Numbers], ...] = ()
    over: tuple[tuple[Dim, Dim], ...] = ()


def match(pattern: Method, use: Use, site: Site) -> Match:
    """Match one use at one site.

    Raises:
        Mismatch: with the reason.
    """
    method = fixed(use.method, use.args)
    sizes = site_sizes(method, use.args, site)
    _check_outside(pattern, method)
    reason = Mismatch("computes something else", depth=1)
    for kept, zero in _with_dropout(pattern):
        for state in _structures(pattern, method, kept, sizes):
            try:
                return _finished(pattern, use, method, sizes, state, zero)
            except Mismatch as found:
                reason = found
    raise reason


def _check_outside(pattern: Method, method: Method) -> None:
    """What does not stand in the expressions."""
    if sorted(method.targets) != sorted(pattern.targets):
        changed = " and ".join(f"`{target}`" for target in sorted(method.targets))
        raise Mismatch(f"changes {changed}", depth=0)
    if method.inputs:
        raise Mismatch(f"needs `{method.inputs[0].name}`, which each call supplies", depth=0)
    if len(method.tensors) != len(pattern.tensors):
        count = len(method.tensors)
        raise Mismatch(f"has {count} tensors, and not {len(pattern.tensors)}", depth=0)
    if method.penalties:
        raise Mismatch("has a penalty")
    reads_x = any("x" in names(c.value) for c in pattern.compositions)
    if reads_x and method.insertion != pattern.insertion:
        raise Mismatch(f"has `insertion {method.insertion}`")


def _with_dropout(pattern: Method) -> Iterator[tuple[bool, set[str]]]:
    """The pattern as it is; then without dropout, the rates being zero."""
    yield True, set()
    rates = {
        node.args[1].name
        for composition in pattern.compositions
        for node in postorder(composition.value)
        if isinstance(node, Apply) and node.op == "dropout" and isinstance(node.args[1], Hyper)
    }
    if rates:
        yield False, rates


def _structures(
    pattern: Method, method: Method, kept: bool, sizes: Mapping[str, int]
) -> Iterator[_State]:
    def forms(of: Method, keep: bool) -> list[Sum]:
        found = []
        for composition in sorted(of.compositions, key=lambda c: c.target):
            dropouts = {
                id(n): not keep or (of is method and _number(((n.args[1], 1),), sizes) == 0)
                for n in postorder(composition.value)
                if isinstance(n, Apply) and n.op == "dropout"
            }
            found.append(normal_form(composition.value, dropouts))
        return found

    own = {definition.name for definition in method.tensors}
    theirs = {definition.name for definition in pattern.tensors}
    search = _Search(theirs, own)
    yield from search.all(forms(pattern, kept), forms(method, True), _State({}))


class _Search:
    """Backtracking over the orders in which sums and products can be written."""

    def __init__(self, theirs: set[str], own: set[str]) -> None:
        self._theirs, self._own = theirs, own

    def all(self, left: Sequence[Sum], right: Sequence[Sum], state: _State) -> Iterator[_State]:
        """Pairs in their order."""
        if len(left) != len(right):
            return
        if not left:
            yield state
            return
        for found in self._sums(left[0], right[0], state):
            yield from self.all(left[1:], right[1:], found)

    def _sums(self, left: Sum, right: Sum, state: _State) -> Iterator[_State]:
        if len(left.terms) != len(right.terms):
            return
        for order in _orders(right.terms):
            yield from self._terms(left.terms, order, state)

    def _terms(
        self, left: Sequence[Term], right: Sequence[Term], state: _State
    ) -> Iterator[_State]:
        if not left:
            yield state
            return
        one, other = left[0], right[0]
        if len(one.above) != len(other.above) or len(one.below) != len(other.below):
            return
        state = replace(state, numbers=(*state.numbers, (one.numbers, other.numbers)))
        for above in _orders(other.above):
            for below in _orders(other.below):
                pairs = [*zip(one.above, above, strict=True), *zip(one.below, below, strict=True)]
                for found in self._factors(pairs, state):
                    yield from self._terms(left[1:], right[1:], found)

    def _factors(self, pairs: Sequence[tuple[Factor, Factor]], state: _State) -> Iterator[_State]:
        if not pairs:
            yield state
            return
        for found in self._factor(*pairs[0], state):
            yield from self._factors(pairs[1:], found)

    def _factor(self, left: Factor, right: Factor, state: _State) -> Iterator[_State]:
        if isinstance(left, Sum) and isinstance(right, Sum):
            yield from self._sums(left, right, state)
        elif isinstance(left, Leaf) and isinstance(right, Leaf):
            yield from self._leaf(left.name, right.name, state)
        elif isinstance(left, Node) and isinstance(right, Node):
            keys = [key for key, _ in left.keywords]
            if left.op != right.op or keys != [key for key, _ in right.keywords]:
                return
            if len(left.over) != len(right.over):
                return
            over = tuple(zip(left.over, right.over, strict=True))
            ours = [*left.args, *(value for _, value in left.keywords)]
            others = [*right.args, *(value for _, value in right.keywords)]
            yield from self.all(ours, others, replace(state, over=(*state.over, *over)))

    def _leaf(self, left: str, right: str, state: _State) -> Iterator[_State]:
        if left not in self._theirs:
            if left == right:
                yield state
        elif state.tensors.get(left) == right:
            yield state
        elif (
            right in self._own and left not in state.tensors and right not in state.tensors.values()
        ):
            yield replace(state, tensors={**state.tensors, left: right})


def _orders(items: tuple) -> Iterator[tuple]:  # type: ignore[type-arg]
    return permutations(items) if len(items) <= MOST_TERMS else iter([items])


def _finished(
    pattern: Method,
    use: Use,
    method: Method,
    sizes: Mapping[str, int],
    state: _State,
    zero: set[str],
) -> Match:
    own = {definition.name: definition for definition in method.tensors}
    if len(state.tensors) != len(pattern.tensors):
        raise Mismatch("has a tensor that its expression does not use")
    shaped = []
    for definition in pattern.tensors:
        other = own[state.tensors[definition.name]]
        if other.trainable != definition.trainable:
            raise Mismatch(f"does {'' if other.trainable else 'not '}train `{other.name}`")
        if other.trainable and other.shared != definition.shared:
            raise Mismatch(f"shares `{other.name}` across {other.across}")
        shape = tuple(dim.evaluate(sizes) for dim in other.dims)
        shaped.append((definition.name, definition.dims, shape))
    hypers = {h.name for h in pattern.hypers}
    site_own = {k: v for k, v in sizes.items() if k not in use.args and k not in hypers}
    try:
        found = infer(shaped, site_own)
    except Misfit as misfit:
        raise Mismatch(f"has other shapes: {misfit}") from None
    values: dict[str, Scalar] = {h.name: found[h.name] for h in pattern.hypers if h.name in found}
    values.update(dict.fromkeys(zero, 0.0))
    _check_over(pattern, use, state, values)
    _solve_numbers(pattern, use, state, {**sizes, **found}, sizes, values)
    for hyper in pattern.hypers:
        given = use.args.get(hyper.name, hyper.default)
        if hyper.name not in values and given is not None:
            values[hyper.name] = given
    effort = sum(
        len(repr(value))
        for name, value in values.items()
        if isinstance(value, float) and name not in zero and value != use.args.get(name)
    )
    return Match(values, dict(state.tensors), effort)


def _check_over(pattern: Method, use: Use, state: _State, values: Mapping[str, Scalar]) -> None:
    theirs = {k: v for k, v in values.items() if isinstance(v, int)}
    own = {k: v for k, v in use.args.items() if isinstance(v, int)}
    for left, right in state.over:
        if left.substitute(theirs) != right.substitute(own):
            raise Mismatch(f"reduces over `{right}`, and not over `{left}`")


def _solve_numbers(
    pattern: Method,
    use: Use,
    state: _State,
    theirs: Mapping[str, int],
    sizes: Mapping[str, int],
    values: dict[str, Scalar],
) -> None:
    waiting = list(state.numbers)
    while waiting:
        later = []
        for left, right in waiting:
            if not _solved(left, _number(right, sizes), theirs, values, use.args):
                later.append((left, right))
        if len(later) == len(waiting):
            raise Mismatch("has numbers from which the hyper-parameters do not follow")
        waiting = later


def _solved(
    left: Numbers,
    wanted: float,
    theirs: Mapping[str, int],
    values: dict[str, Scalar],
    given: Mapping[str, Scalar],
) -> bool:
    """Compare two numbers, or take from them the one hyper-parameter that is still open."""
    open_ones = {
        node.name
        for number, _ in left
        for node in postorder(number)
        if isinstance(node, Hyper) and node.name not in values
    }
    if not open_ones:
        if not math.isclose(_number(left, theirs, values), wanted, rel_tol=1e-9):
            raise Mismatch("has other numbers")
        return True
    if len(open_ones) > 1:
        return False
    name = min(open_ones)
    unit = _number(left, theirs, {**values, name: 1.0})
    solution = wanted / unit if unit else math.nan
    candidates = (given.get(name), float(round(solution, 9)), solution)
    for candidate, tolerance in zip(candidates, (EXACT, EXACT, 1e-9), strict=True):
        if not isinstance(candidate, (int, float)) or math.isnan(candidate):
            continue
        made = _number(left, theirs, {**values, name: candidate})
        if math.isclose(made, wanted, rel_tol=tolerance):
            values[name] = float(candidate)
            return True
    raise Mismatch(f"has numbers that no `{name}` explains")


def _number(
    numbers: Numbers, sizes: Mapping[str, int], values: Mapping[str, Scalar] | None = None
) -> float:
    """The product of some scalar expressions, as a number."""
    product = 1.0
    for expr, power in numbers:
        product *= _evaluated(expr, sizes, values or {}) ** power
    return product


def _evaluated(expr: Expr, sizes: Mapping[str, int], values: Mapping[str, Scalar]) -> float:
    def nothing(name: str) -> float:
        raise Mismatch(f"reads `{name}` as a number")

    try:
        value = Interpreter(math, sizes, nothing)(substitute(dict(values))(expr))
    except (Indivisible, ZeroDivisionError) as fact:
        raise Mismatch(str(fact)) from None
    return float(value)

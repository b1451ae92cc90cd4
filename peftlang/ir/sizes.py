"""The sizes under which a method's dimensions are evaluated at a site."""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from math import isfinite
from types import MappingProxyType

from peftlang.ir.builtins import BUILTINS, as_dim
from peftlang.ir.builtins.numbers import NUMBERS
from peftlang.ir.dims import Dim, Indivisible, UnboundDim
from peftlang.ir.expr import Apply, DimValue, Expr, Number, Scalar, postorder
from peftlang.ir.inits import INITIALISERS
from peftlang.ir.method import Method, TensorDef
from peftlang.ir.places import place_of
from peftlang.ir.plan import Site


def site_sizes(
    method: Method,
    args: Mapping[str, Scalar],
    site: Site,
    tapped: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, int]:
    """Size of every dimension name: the site's, and the integer hyper-parameters.

    ``tapped`` are the sizes of what the method's taps read there (``Placement.tapped_sizes``).
    Under sequential insertion the function's input is the site's output, so ``d_x`` is its size.
    """
    hypers = {h.name: int(args[h.name]) for h in method.hypers if h.kind == "int"}
    sizes = dict(site.dims)
    if method.insertion == "sequential" and "d_h" in sizes:
        sizes["d_x"] = sizes["d_h"]
    if site.layer is not None:
        sizes["layer"] = site.layer
    place = place_of(method.position, site) if method.position else None
    if method.position and place is not None:
        sizes |= {"place": place, "places": len(method.position.targets)}
    return {**sizes, **tapped, **hypers}


def numbers(roots: Iterable[Expr], sizes: Mapping[str, int]) -> dict[int, float]:
    """The number that each scalar at or below ``roots`` is, by identity, where the sizes say so.

    What has no finite value is left out.
    """
    found: dict[int, float] = {}
    for node in postorder(*roots):
        with suppress(ArithmeticError, ValueError, KeyError):
            value = _number(node, found, sizes)
            if value is not None and isfinite(value):
                found[id(node)] = value
    return found


_MEANINGS: dict[str, Callable[..., float]] = {
    **NUMBERS,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "neg": operator.neg,
}


def _number(node: Expr, known: Mapping[int, float], sizes: Mapping[str, int]) -> float | None:
    """A node's value; raises where it has none, or an operand is not known."""
    if isinstance(node, Number) and not isinstance(node.value, str):
        return float(node.value)
    if isinstance(node, DimValue):
        return float(node.dim.evaluate(sizes))
    if isinstance(node, Apply) and not node.type.dims and node.op in _MEANINGS:
        return _MEANINGS[node.op](*(known[id(arg)] for arg in node.args))
    return None


def out_of_range(method: Method, sizes: Mapping[str, int]) -> Iterator[str]:
    """What is wrong with the numbers in a method, as clauses of a sentence.

    Args:
        method: Its arguments fixed.
        sizes: Sizes of dimensions, as far as they are known.
    """
    known = numbers(_roots(method), sizes)
    for tensor in method.tensors:
        fault = _wrong_start(tensor, known, sizes)
        if fault is not None:
            yield fault
    for node in postorder(*_roots(method)):
        if isinstance(node, Apply):
            yield from _undefined(node, known)


def counts_too_many(method: Method, sizes: Mapping[str, int]) -> Iterator[str]:
    """Which of a method's calls want more entries than there are, as clauses of a sentence."""
    for node in postorder(*_roots(method)):
        fault = too_many(node, sizes) if isinstance(node, Apply) else None
        if isinstance(node, Apply) and fault is not None:
            yield f"`{node.op}` {fault}"


def _roots(method: Method) -> Iterator[Expr]:
    yield from (composition.value for composition in method.compositions)
    yield from method.penalties
    yield from (carry.init for carry in method.carries)
    for tensor in method.tensors:
        yield from tensor.init.args
        yield from (value for _, value in tensor.init.keywords)
        if tensor.init.expression is not None:
            yield tensor.init.expression


def _undefined(node: Apply, known: Mapping[int, float]) -> Iterator[str]:
    operands = [known.get(id(arg)) for arg in node.args]
    if node.op == "/" and operands[1] == 0:
        yield "an expression divides by zero"
    elif node.op == "sqrt" and operands[0] is not None and operands[0] < 0:
        yield "an expression takes the root of a negative number"
    elif node.op == "dropout" and operands[1] is not None and not 0 <= operands[1] < 1:
        yield f"the probability of `dropout` is {operands[1]:g}, not from 0 to below 1"


def _wrong_start(
    tensor: TensorDef, known: Mapping[int, float], sizes: Mapping[str, int]
) -> str | None:
    init = tensor.init
    if init.name is None:
        return None
    entry = INITIALISERS[init.name]
    values = dict(zip(entry.operands, (known.get(id(arg)) for arg in init.args), strict=True))
    values |= {key: known.get(id(value)) for key, value in init.keywords}
    fault = entry.wrong(values, [_evaluated(dim, sizes) for dim in tensor.dims])
    return None if fault is None else f"{fault} (`{tensor.name}`)"


def _evaluated(dim: Dim | None, sizes: Mapping[str, int]) -> int | None:
    try:
        return None if dim is None else dim.evaluate(sizes)
    except (UnboundDim, Indivisible):
        return None


def too_many(node: Apply, sizes: Mapping[str, int]) -> str | None:
    """What is wrong where an operand may not exceed a dimension and does, with these sizes.

    None where nothing is, or where the sizes do not say.
    """
    entry = BUILTINS.get(node.op)
    if entry is None or entry.at_most is None:
        return None
    index, limits = entry.at_most(node)
    have = _evaluated(as_dim(node.args[index]), sizes)
    for limit in limits:
        most = _evaluated(limit, sizes)
        if have is not None and most is not None and not 1 <= have <= most:
            return f"wants {have} of the {most} entries of `{limit}`"
    return None


def all_dims(method: Method) -> Iterable[tuple[Dim, str]]:
    """Every dimension of a method's tensors and expressions, and what has it."""
    for tensor in method.tensors:
        for dim in tensor.dims:
            yield dim, f"dimension `{dim}` of `{tensor.name}`"
    roots = [c.value for c in method.compositions]
    roots += [t.init.expression for t in method.tensors if t.init.expression is not None]
    for node in postorder(*roots):
        if isinstance(node, Apply):
            for dim in node.type.dims:
                yield dim, f"dimension `{dim}` of `{node.op}`"

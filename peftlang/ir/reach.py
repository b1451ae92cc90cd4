"""What a method depends on: which tokens (for merging, caches and contracts), which dimensions."""

from collections.abc import Iterable, Iterator
from typing import Literal

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.expr import Apply, DimValue, Number, postorder
from peftlang.ir.method import Method


def reads(call: Apply) -> Literal["own", "seen", "all"]:
    """Which tokens a call reads, as for ``Builtin.reads``; its ``causal = ...`` decides first."""
    chosen = call.keyword("causal")
    if isinstance(chosen, Number):
        return "seen" if chosen.value else "all"
    return "own" if call.is_hyper else BUILTINS[call.op].reads


def chooses(call: Apply) -> bool:
    """Whether the spec itself says how far a call looks, rather than the site."""
    return call.keyword("causal") is not None


def asking(method: Method, *, what: Iterable[str] = ("places", "ids")) -> list[Apply]:
    """The calls of a method's compositions that ask where tokens lie, or which ids they have."""
    wanted = set(what)
    return [node for node in _calls(method) if BUILTINS[node.op].asks in wanted]


def asks(method: Method, *dims: str) -> bool:
    """Whether a method's tensors, compositions or penalties depend on one of these dimensions."""
    found = {symbol for tensor in method.tensors for dim in tensor.dims for symbol in dim.symbols}
    for node in postorder(*(c.value for c in method.compositions), *method.penalties):
        if isinstance(node, DimValue):
            found |= node.dim.symbols
    return not found.isdisjoint(dims)


def mixing(method: Method) -> list[Apply]:
    """The calls of a method's compositions that read hidden states or ids of other tokens.

    What reads keys and values is not among them: a cache holds those of earlier tokens.
    """
    return [node for node in asking(method) if reads(node) != "own"]


def _calls(method: Method) -> Iterator[Apply]:
    for node in postorder(*(c.value for c in method.compositions)):
        if isinstance(node, Apply) and not node.is_hyper:
            yield node

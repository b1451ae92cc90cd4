"""Which tokens an expression's value depends on: the ground for merging, caches and contracts."""

from collections.abc import Iterable, Iterator

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.expr import Apply, Expr, Number, postorder
from peftlang.ir.method import Method


def asking(method: Method, *, what: Iterable[str] = ("places", "ids")) -> list[Apply]:
    """The calls of a method's compositions that ask where tokens lie, or which ids they have."""
    wanted = set(what)
    return [node for node in _calls(method) if BUILTINS[node.op].asks in wanted]


def mixing(method: Method) -> list[Apply]:
    """The calls of a method's compositions that read other tokens than their own."""
    return [node for node in _calls(method) if BUILTINS[node.op].mixes]


def looks_ahead(call: Apply, *, causal: bool) -> bool:
    """Whether a call reads tokens that come later.

    Args:
        call: A call of a builtin.
        causal: Whether no query of the site's own attention sees a later token.
    """
    mixes = BUILTINS[call.op].mixes
    chosen = call.keyword("causal")
    if mixes == "site":
        return not (causal if chosen is None else bool(_truth(chosen)))
    return mixes == "all"


def chooses(call: Apply) -> bool:
    """Whether the spec itself says how far a call looks, rather than the site."""
    return call.keyword("causal") is not None


def is_token_local(method: Method) -> bool:
    """Whether every composition's value at a token depends on that token alone."""
    return not mixing(method)


def is_causal(method: Method, *, causal: bool) -> bool:
    """Whether no composition's value at a token depends on a later one."""
    return not any(looks_ahead(call, causal=causal) for call in mixing(method))


def _truth(expr: Expr) -> bool:
    return isinstance(expr, Number) and bool(expr.value)


def _calls(method: Method) -> Iterator[Apply]:
    for node in postorder(*(c.value for c in method.compositions)):
        if isinstance(node, Apply) and not node.is_hyper:
            yield node

"""Which parameters a gradient can reach, from how the tensors of a method start."""

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.expr import Apply, Expr, Ref, children, postorder
from peftlang.ir.method import Method
from peftlang.ir.starting import ZERO, Starts

MAX_ROUNDS = 32
"""How many parameters one after the other are followed, each moved by the one before it."""


def never_trained(method: Method) -> list[str]:
    """Parameters whose gradient is zero for ever, in the order of their declarations.

    In a product of factors that all start at zero no factor gets a gradient, so that all of them
    stay as they are. A parameter that gets one at first is taken for anything from then on, until
    no other gets one any more. What is not known is taken for not zero, so that every name that is
    returned is one that cannot train.

    Args:
        method: Its arguments fixed as far as they are known.
    """
    roots = [*(composition.value for composition in method.compositions), *method.penalties]
    nodes = list(postorder(*roots))
    read = {node.name for node in nodes if isinstance(node, Ref)}
    left = [t.name for t in method.tensors if t.trainable and t.name in read]
    inits = {tensor.name: tensor.init for tensor in method.tensors}
    moved: frozenset[str] = frozenset()
    for _ in range(MAX_ROUNDS):
        reached = _reached(roots, nodes, Starts(inits, moved))
        if reached.isdisjoint(left):
            return left
        moved |= reached
        left = [name for name in left if name not in moved]
        if not left:
            break
    return []


def _reached(roots: list[Expr], nodes: list[Expr], starts: Starts) -> frozenset[str]:
    """Names that the results depend on to first order. ``nodes``: operands before their users."""
    zero = {id(node) for node in nodes if starts(node).value == ZERO}
    reached = {id(root) for root in roots}
    for node in reversed(nodes):
        if id(node) in reached and isinstance(node, Apply):
            reached |= {id(child) for child in _followed(node, zero)}
    return frozenset(n.name for n in nodes if isinstance(n, Ref) and id(n) in reached)


def _followed(call: Apply, zero: set[int]) -> list[Expr]:
    """The operands of a call whose change changes its result, ``zero`` being those that are 0."""
    if call.is_hyper:
        return list(children(call))
    entry = BUILTINS[call.op]
    if entry.flat_at_zero and id(call.args[0]) in zero:
        return []
    if entry.zero != "any":
        return list(children(call))
    factors = [index for index in entry.linear if index < len(call.args)]
    return [
        arg
        for index, arg in enumerate(call.args)
        if not any(id(call.args[other]) in zero for other in factors if other != index)
    ]

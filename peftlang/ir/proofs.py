"""What a method promises, decided from its text where that is possible.

Each function answers ``proved``, ``refuted`` or ``undecided`` with a reason. What is undecided here
may still hold: running decides it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.dims import Dim, TooComplex, product
from peftlang.ir.expr import Apply, DimValue, Expr, Ref, children, names, postorder
from peftlang.ir.linearity import Degree, dependence
from peftlang.ir.method import Contract, Init, Method, TapDef
from peftlang.ir.positions import BLOCK, CORE, EMBED, NORM, POSITIONS, PROJECTION, PROMPT
from peftlang.ir.reach import mixing, reads
from peftlang.ir.starting import UNDEFINED, starts_as
from peftlang.ir.types import Level

Verdict = Literal["proved", "refuted", "undecided"]


@dataclass(frozen=True)
class Proof:
    """A verdict, and why, in a sentence."""

    verdict: Verdict
    reason: str


def prove(contract: Contract, method: Method, role: str) -> Proof:
    """Decide one contract of a method, its arguments fixed, at one role."""
    name, subject = contract.property, contract.subject
    if name in ("causal", "token_local"):
        return local(method, role, strict=name == "token_local")
    if name == "identity_at_init":
        return starts_at_the_base(method)
    if name == "mergeable":
        return mergeable(method, role)
    if name == "trainable":
        return trainable(contract, method)
    if subject is None:
        return Proof("undecided", "decided by running")
    of_matrix = {"orthogonal": orthogonal, "symmetric": symmetric}
    return rank(contract) if name == "rank" else of_matrix[name](subject)


def starts_at_the_base(method: Method) -> Proof:
    """Whether every composition leaves its target as it is, with tensors as they start."""
    inits: Mapping[str, Init] = {t.name: t.init for t in method.tensors}
    for composition in method.compositions:
        found = starts_as(composition.value, inits)
        if found == ("ref", composition.target):
            continue
        if found == UNDEFINED:
            what = "a division by zero, or the like"
            return Proof("refuted", f"`{composition.target}` starts undefined: there is {what}")
        if found[0] == "num":
            return Proof("refuted", f"`{composition.target}` starts at {found[1]:g} everywhere")
        if _adds_a_number(found, composition.target):
            return Proof("refuted", f"`{composition.target}` starts changed by a constant")
        return Proof("undecided", f"the change of `{composition.target}` is not zero for certain")
    return Proof("proved", "with the initial values, each composition is its target's old value")


def _adds_a_number(found: tuple[object, ...], target: str) -> bool:
    if found[0] != "app" or found[1] not in ("+", "-", "*", "/"):
        return False
    operands = found[2]
    assert isinstance(operands, tuple)
    return ("ref", target) in operands and any(o[0] == "num" for o in operands)


def trainable(contract: Contract, method: Method) -> Proof:
    """Whether the number of trained numbers at a site is as the contract says, for all sizes."""
    assert isinstance(contract.bound, DimValue)
    try:
        total = sum((product(t.dims) for t in method.tensors if t.trainable), start=Dim.of(0))
        bound = contract.bound.dim
        if method.insertion == "sequential":
            total, bound = (d.substitute({"d_x": Dim.of("d_h")}) for d in (total, bound))
        apart = total - bound
    except TooComplex:
        return Proof("undecided", "the sizes are too complex to compare")
    if contract.relation == "==" and not apart.terms:
        return Proof("proved", f"the shapes sum to {total}")
    signs = {c > 0 for m, c in apart.terms if all(isinstance(a, str) for a, _ in m)}
    simple = all(isinstance(a, str) for m, _ in apart.terms for a, _ in m)
    if contract.relation == "==" and simple and len(signs) == 1:
        return Proof("refuted", f"the shapes sum to {total}")
    return Proof("undecided", f"the shapes sum to {total}")


def mergeable(method: Method, role: str) -> Proof:
    """Whether the change is one of weights, of the site's own or of the projection beside it."""
    scope = POSITIONS[role]
    for scopes, what in ((CORE, "the attention product has"), (BLOCK, "a whole layer has")):
        if scope is scopes:
            return Proof("refuted", f"{what} no weights to take the change")
    if scope is PROMPT:
        return Proof("refuted", "a longer input is no change of weights")
    hidden = {"x", "h"} if scope is PROJECTION or method.insertion == "sequential" else {"h"}
    for composition in method.compositions:
        if composition.target in ("W", "b"):
            continue
        read = names(composition.value)
        foreign = read & ({"x", "h", "resid"} - hidden)
        if foreign:
            return Proof("refuted", f"it reads `{min(foreign)}`, which is no projection's own")
        own = not read & {i.name for i in method.inputs} and not mixing(method)
        if scope is EMBED and own:
            continue
        found = dependence(composition.value, hidden)
        if found.degree is Degree.OTHER:
            return Proof("undecided", found.reason)
        if scope is NORM:
            return Proof("undecided", "a norm takes only changes of each feature by itself")
    return Proof("proved", "each change is affine in the site's own values, or of the weights")


def local(method: Method, role: str, *, strict: bool) -> Proof:
    """Whether a method lets values flow between tokens (``strict``), or from later ones."""
    scope = POSITIONS[role]
    if scope is PROMPT:
        return Proof("undecided", "every token may read what is put before the sequence")
    reach = {"own"}
    if any(_is_own_sequence(tap) for tap in method.taps):
        return Proof("refuted", "it reads the whole sequence at another site, later tokens with it")
    for composition in method.compositions:
        read = {n.name for n in postorder(composition.value) if isinstance(n, Ref)}
        shared = {
            name
            for name in read | {composition.target}
            if name in scope and scope[name].level is Level.EXAMPLE
        }
        if strict and shared:
            return Proof("refuted", f"`{min(shared)}` is read by every token")
        reach |= {reads(n) for n in postorder(composition.value) if isinstance(n, Apply)}
        if shared and not _keeps_keys(composition.value, composition.target):
            reach.add("all" if reach == {"own"} else "seen")
    if "all" in reach:
        return Proof("undecided", "it mixes the values of all tokens")
    if strict and "seen" in reach:
        return Proof("refuted", "it reads the keys of other tokens")
    return Proof("proved", "each operation works on one token's own values, or respects the mask")


def _is_own_sequence(tap: TapDef) -> bool:
    """Whether a tap is of all the tokens of the sequence at which the method stands."""
    target = tap.target
    encoders = target.kind != "role" or target.sides or target.text in _OF_ENCODERS
    return tap.sequence and not encoders


_OF_ENCODERS = ("cross_attn.k", "cross_attn.v")


def _keeps_keys(value: Expr, target: str) -> bool:
    """Whether keys stay in their places, the model's own last."""
    if isinstance(value, Apply) and value.op == "concat":
        last = value.args[-1]
        return isinstance(last, Ref) and last.name == target
    return target not in ("k", "v") or not any(
        isinstance(n, Apply) and (n.op in ("@", "index", "reshape") or n.over)
        for n in postorder(value)
    )


def orthogonal(expr: Expr) -> Proof:
    """Whether a matrix is orthogonal by the way it is made."""
    known: dict[int, bool] = {}
    skew: dict[int, bool] = {}
    for node in postorder(expr):
        below = [known[id(child)] for child in children(node)]
        skew[id(node)] = isinstance(node, Apply) and (
            node.op == "skew" or (node.op == "neg" and skew[id(node.args[0])])
        )
        known[id(node)] = _is_orthogonal(node, below, skew)
    if known[id(expr)]:
        return Proof("proved", "it is made of orthogonal parts by operations that keep it so")
    return Proof("undecided", "no rule says that it is orthogonal")


def _is_orthogonal(node: Expr, below: list[bool], skew: Mapping[int, bool]) -> bool:
    if not isinstance(node, Apply):
        return False
    how = BUILTINS[node.op].orthogonal if not node.is_hyper else None
    if how == "skew":
        return skew[id(node.args[0])]
    square = len(node.type.dims) >= 2 and node.type.dims[-1] == node.type.dims[-2]
    if node.op == "@" or (node.op == "transpose" and square) or how == "operands":
        return all(below) and bool(below)
    return how == "always"


def rank(contract: Contract) -> Proof:
    """Whether the factors of a matrix bound its rank as the contract says."""
    assert contract.subject is not None
    assert isinstance(contract.bound, DimValue)
    bounds: dict[int, set[Dim]] = {}
    for node in postorder(contract.subject):
        bounds[id(node)] = _rank_bounds(node, bounds)
    if contract.relation == "<=" and contract.bound.dim in bounds[id(contract.subject)]:
        return Proof("proved", f"its factors have rank at most {contract.bound.dim}")
    return Proof("undecided", "the bound does not follow from the factors' shapes")


def _rank_bounds(node: Expr, known: Mapping[int, set[Dim]]) -> set[Dim]:
    dims = node.type.dims
    own = set(dims[-2:]) if len(dims) >= 2 else {Dim.of(1)}
    if not isinstance(node, Apply) or node.is_hyper:
        return own
    parts = [known[id(arg)] for arg in node.args if len(arg.type.dims) >= 2]
    if node.op == "@" and len(parts) == len(node.args):
        return own | parts[0] | parts[1]
    scaled = node.op in ("*", "/", "neg", "transpose", "stop_gradient") and len(parts) == 1
    if scaled and all(len(a.type.dims) != 1 for a in node.args):
        return own | parts[0]
    if node.op in ("*", "kron") and len(parts) == 2:
        return own | {a * b for a in parts[0] for b in parts[1]}
    if node.op in ("+", "-") and len(parts) == 2:
        return own | {a + b for a in parts[0] for b in parts[1]}
    return own


def symmetric(expr: Expr) -> Proof:
    """Whether a matrix is ``S + S'`` or ``A A'`` as it is written."""
    if isinstance(expr, Apply) and expr.op in ("+", "@"):
        left, right = (starts_as(arg, {}) for arg in expr.args)
        if ("app", "transpose", (left,), ()) == right or ("app", "transpose", (right,), ()) == left:
            return Proof("proved", "it is a matrix combined with its own transpose")
    if isinstance(expr, Apply) and expr.op == "skew":
        return Proof("undecided", "a skew-symmetric matrix is symmetric only where it is zero")
    return Proof("undecided", "no rule says that it is symmetric")

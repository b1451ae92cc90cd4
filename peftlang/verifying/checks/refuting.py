"""Why a contract does not hold, in the words of the spec, and where in it that stands."""

from dataclasses import dataclass

from peftlang.diagnostics import Span
from peftlang.ir.expr import Apply, Expr, Ref, SpanPair, postorder
from peftlang.ir.linearity import Degree, dependence
from peftlang.ir.method import Contract, Method, Use
from peftlang.ir.positions import NORM, POSITIONS, PROJECTION
from peftlang.ir.proofs import Proof
from peftlang.ir.reach import reads
from peftlang.ir.starting import starts_as
from peftlang.ir.types import Level
from peftlang.verifying.report import Place
from peftlang.verifying.subject import Subject


@dataclass(frozen=True)
class Reason:
    """Why a contract does not hold: a clause that goes after "because", and its place."""

    text: str
    span: SpanPair | None = None


def reason_of(contract: Contract, method: Method, role: str, proof: Proof) -> Reason:
    """Why a contract that fails does so; its text is "" where only the numbers say so.

    Args:
        contract: The contract.
        method: The method, its arguments fixed.
        role: Where it fails.
        proof: What the text decides there.
    """
    refuted = proof.reason if proof.verdict == "refuted" else ""
    found: Reason | None = None
    if contract.property == "identity_at_init":
        found = _changed_at_start(method, refuted)
    elif contract.property == "mergeable":
        found = _not_affine(method, role)
    elif contract.property in ("causal", "token_local"):
        found = _reads_others(method, strict=contract.property == "token_local")
    if found is None:
        return Reason(refuted, contract.span)
    return Reason(refuted or found.text, found.span or contract.span)


def _changed_at_start(method: Method, refuted: str) -> Reason | None:
    """The composition that does not leave its target as it is."""
    inits = {tensor.name: tensor.init for tensor in method.tensors}
    for composition in method.compositions:
        target = composition.target
        if starts_as(composition.value, inits) != ("ref", target):
            text = f"`{target}` is not left as it is by the tensors as they start"
            return Reason(refuted or text, composition.span)
    return None


def _not_affine(method: Method, role: str) -> Reason | None:
    """The operation that no change of weights can do."""
    scope = POSITIONS[role]
    hidden = {"x", "h"} if scope is PROJECTION or method.insertion == "sequential" else {"h"}
    for composition in method.compositions:
        if composition.target in ("W", "b"):
            continue
        for node in postorder(composition.value):
            if isinstance(node, Ref) and node.name in {"x", "h", "resid"} - hidden:
                return Reason(f"it reads `{node.name}`, which is no projection's own", node.span)
        found = dependence(composition.value, hidden)
        if found.degree is Degree.OTHER:
            return Reason(found.reason, _span(found.culprit) or composition.span)
        if scope is NORM:
            return Reason("a norm takes only changes of each feature by itself", composition.span)
    return None


def _reads_others(method: Method, *, strict: bool) -> Reason | None:
    """The operation by which a value reaches another token."""
    for composition in method.compositions:
        for node in postorder(composition.value):
            if isinstance(node, Apply) and reads(node) == "all":
                return Reason(f"`{node.op}` reads the tokens that come later", node.span)
            if strict and isinstance(node, Apply) and reads(node) == "seen":
                return Reason(f"`{node.op}` reads other tokens", node.span)
            if strict and isinstance(node, Ref) and node.type.level is Level.EXAMPLE:
                return Reason(f"`{node.name}` is read by every token", node.span)
    return None


def _span(node: Expr | None) -> SpanPair | None:
    return None if node is None else node.span


def place_of(subject: Subject, use: Use, span: SpanPair | None) -> Place | None:
    """Where a method's clause or expression stands, if that is in the spec's own text.

    A clause that the caller or an adapter gives in place of the method's has its own text.
    """
    unit = subject.loaded.unit
    definition = unit.names.get(use.method.name)
    if span is None or subject.overrides or definition is None or definition.unit is not unit:
        return None
    place = Place(unit.source, Span(*span))
    return place if definition.holds(unit.source, place.span) else None

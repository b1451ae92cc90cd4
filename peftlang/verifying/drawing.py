"""Drawing sites at which to verify a method: sizes that its divisions allow, the rest at random."""

from math import lcm

from hypothesis import assume
from hypothesis import strategies as st

from peftlang.diagnostics import PeftError
from peftlang.ir.dims import Dim, Indivisible, Quotient, UnboundDim
from peftlang.ir.expr import Apply, Expr, postorder
from peftlang.ir.method import Method, Use, fixed
from peftlang.ir.positions import NORM, POSITIONS, SITE_DIMS
from peftlang.ir.reach import asks
from peftlang.ir.sizes import too_many
from peftlang.verifying.site_case import PlacedMethod, SiteCase, order_matters, reads_bias
from peftlang.verifying.subject import Subject, role_of, roles_of

DTYPES = ("float64", "float32")

_HEADS_OF_ONE_WIDTH = tuple(f"{kind}.{part}" for kind in ("attn", "cross_attn") for part in "qkv")
"""Roles whose output is the heads side by side: there ``d_h`` is a multiple of ``d_head``."""


def site_cases(
    subject: Subject,
    *,
    use: str | None = None,
    dtypes: tuple[str, ...] = DTYPES,
    training: bool = False,
) -> st.SearchStrategy[PlacedMethod]:
    """Small sites, each with the method that acts there.

    Args:
        subject: What is verified.
        use: Label of the only use to draw; None for all.
        dtypes: Number types to draw from.
        training: Also draw sites with dropout and sampling on.
    """

    @st.composite
    def drawn(draw: st.DrawFn) -> PlacedMethod:
        return _drawn(draw, subject, use, dtypes, training=training)

    return drawn()


def _drawn(
    draw: st.DrawFn, subject: Subject, use: str | None, dtypes: tuple[str, ...], *, training: bool
) -> PlacedMethod:
    args = {name: draw(st.sampled_from(values)) for name, values in subject.choices.items()}
    try:
        adapter = subject.build({**subject.args, **args})
    except PeftError:
        assume(False)
        raise
    uses = [u for u in adapter.uses if use in (None, u.label) and roles_of(u)]
    assume(uses)
    chosen = uses[draw(st.integers(0, len(uses) - 1))]
    role = draw(st.sampled_from(roles_of(chosen)))
    sizes = _sizes(draw, chosen, role) | _alternative(draw, chosen, role)
    case = SiteCase(
        role=role,
        use=chosen.label,
        sizes=sizes,
        args=args,
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 9999)),
        bias=reads_bias(chosen.method) or ("b" in POSITIONS[role] and draw(st.booleans())),
        causal=order_matters(chosen.method, role) and draw(st.booleans()),
        training=training and draw(st.booleans()),
    )
    found = PlacedMethod(case, adapter, chosen, fixed(chosen.method, chosen.args))
    assume(_fits(found))
    return found


def _sizes(draw: st.DrawFn, use: Use, role: str) -> dict[str, int]:
    multiples = st.sampled_from((1, 2, 3, 4, *_large(use)))
    factors = _factors(use)
    if POSITIONS[role] is NORM:
        # A norm scales each feature of what it reads, so it gives as many as it takes.
        factors["d_h"] = lcm(factors.get("d_x", 1), factors.get("d_h", 1))

    def multiple_of(unit: int) -> int:
        return unit * draw(multiples)

    kv_heads, repeats = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    heads = kv_heads * repeats
    unit = factors.get("d_head", 1)
    if role in _HEADS_OF_ONE_WIDTH:
        unit = lcm(unit, factors.get("d_h", 1))
    d_head = multiple_of(unit)
    d_x, d_h = multiple_of(factors.get("d_x", 1)), multiple_of(factors.get("d_h", 1))
    if role in _HEADS_OF_ONE_WIDTH:
        d_h = d_head * (heads if role.endswith("q") else kv_heads)
    if POSITIONS[role] is NORM:
        d_x = d_h
    layers, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    return {
        "d_x": d_x,
        "d_h": d_h,
        "heads": heads,
        "kv_heads": kv_heads,
        "d_head": d_head,
        "layers": layers,
        "layer": draw(st.integers(0, layers - 1)),
        "vocab": factors.get("vocab", 1) * draw(st.integers(1, 5)),
        "batch": draw(st.integers(1, 2)),
        "tokens": tokens,
        "keys": draw(st.integers(1, 4)) if role == "cross_attn.core" else tokens,
    }


def _alternative(draw: st.DrawFn, use: Use, role: str) -> dict[str, int]:
    """One of the alternatives of the position that name the role, where the method asks which."""
    if not asks(use.method, "place", "places"):
        return {}
    named = [role_of(target) for target in use.selector.targets]
    at = [number for number, name in enumerate(named) if name == role]
    return {"place": draw(st.sampled_from(at)), "places": len(named)}


def _large(use: Use) -> tuple[int, ...]:
    """A size past every integer that the caller fixed, for a rank that no small site has."""
    whole = [int(use.args[h.name]) for h in use.method.hypers if h.kind == "int"]
    largest = max(whole, default=0)
    return (largest,) if 4 < largest <= 64 else ()


def _factors(use: Use) -> dict[str, int]:
    """What each of a site's dimensions must be a multiple of, from the method's divisions."""
    hypers = {h.name: int(use.args[h.name]) for h in use.method.hypers if h.kind == "int"}
    found: dict[str, int] = {}
    for dim in _dims(use.method):
        for quotient in _quotients(dim):
            try:
                by = quotient.denominator.evaluate(hypers)
            except (UnboundDim, Indivisible):
                continue
            for symbol in quotient.numerator.symbols & SITE_DIMS:
                found[symbol] = lcm(found.get(symbol, 1), max(by, 1))
    if use.method.insertion == "sequential":
        found["d_h"] = lcm(found.get("d_x", 1), found.get("d_h", 1))
    return found


def _quotients(dim: Dim) -> list[Quotient]:
    atoms = (atom for monomial, _ in dim.terms for atom, _ in monomial)
    direct = [atom for atom in atoms if isinstance(atom, Quotient)]
    return direct + [inner for q in direct for inner in _quotients(q.numerator)]


def _expressions(method: Method) -> list[Expr]:
    """Every node of a composition or a start."""
    starts = [t.init.expression for t in method.tensors if t.init.expression is not None]
    return list(postorder(*(c.value for c in method.compositions), *starts))


def _dims(method: Method) -> list[Dim]:
    """Every dimension that a tensor, a composition or a start has."""
    found = [dim for tensor in method.tensors for dim in tensor.dims]
    return found + [d for n in _expressions(method) if isinstance(n, Apply) for d in n.type.dims]


def _fits(found: PlacedMethod) -> bool:
    """Whether every dimension divides, and nothing wants more entries than there are."""
    method, sizes = found.method, found.sizes
    try:
        if any(dim.evaluate(sizes) < 1 for dim in _dims(method)):
            return False
    except Indivisible:
        return False
    return not any(too_many(n, sizes) for n in _expressions(method) if isinstance(n, Apply))

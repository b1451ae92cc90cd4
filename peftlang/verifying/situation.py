"""One site to verify a method at: which use, which role, which sizes, which numbers."""

from dataclasses import asdict, dataclass, field
from math import lcm
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from peftlang.diagnostics import PeftError
from peftlang.ir.dims import Dim, Indivisible, Quotient, UnboundDim
from peftlang.ir.expr import Apply, Scalar, names, postorder
from peftlang.ir.method import Adapter, Method, Use, fixed
from peftlang.ir.plan import Site
from peftlang.ir.positions import CORE, POSITIONS, SITE_DIMS
from peftlang.ir.reach import asks, mixing
from peftlang.ir.sizes import site_sizes, too_many
from peftlang.verifying.subject import Subject, role_of, roles_of

DTYPES = ("float64", "float32")
TAPPED = 5
"""Size of each dimension that a tap names: what is chosen from it leaves something out."""

SHARED_WIDTH = ("attn.q", "attn.k", "attn.v", "cross_attn.q", "cross_attn.k", "cross_attn.v")


@dataclass(frozen=True)
class Situation:
    """One site, in full: from it every tensor follows.

    Attributes:
        role: A position of the language.
        use: Label of the adapter's use.
        args: Hyper-parameters of the spec's entry.
        sizes: d_x, d_h, heads, kv_heads, d_head, layers, layer, vocab, batch, tokens, keys.
        dtype: Name of the number type.
        seed: Seed of every tensor.
        bias: Whether the site has a bias.
        causal: Whether a token sees itself and earlier ones alone, where that makes a difference.
        training: Whether dropout and sampling are on.
    """

    role: str
    use: str
    sizes: dict[str, int]
    args: dict[str, Scalar] = field(default_factory=dict)
    dtype: str = "float64"
    seed: int = 0
    bias: bool = True
    causal: bool = False
    training: bool = False

    def facts(self) -> dict[str, Any]:
        """As plain values, for JSON and for scripts."""
        return asdict(self)

    def __str__(self) -> str:
        sizes = ", ".join(f"{key} = {value}" for key, value in self.sizes.items())
        args = ", ".join(f"{key} = {value}" for key, value in self.args.items())
        return f"{self.use}({args}) at {self.role}, {sizes}, {self.dtype}, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Placed:
    """A situation with the method that acts there.

    Attributes:
        situation: Where.
        adapter: The adapter that the use is of.
        use: The use.
        method: Its method, arguments fixed.
        sizes: Sizes of every dimension of the method.
    """

    situation: Situation
    adapter: Adapter
    use: Use
    method: Method

    @property
    def site(self) -> Site:
        """The site as the compiler would describe it."""
        situation = self.situation
        scope = POSITIONS[situation.role]
        dims = {k: v for k, v in situation.sizes.items() if k in SITE_DIMS - {"layer", "keys"}}
        return Site(
            id=f"site#{situation.role}",
            role=situation.role,
            path="site",
            stack="layers",
            layer=situation.sizes.get("layer", 0),
            weight="W" if "W" in scope else None,
            bias="b" if "b" in scope and situation.bias else None,
            anchors=("W",) if "W" in scope else (),
            dims={k: v for k, v in dims.items() if k != "tokens"},
        )

    @property
    def sizes(self) -> dict[str, int]:
        own = self.situation.sizes
        found = site_sizes(self.method, self.use.args, self.site)
        return {"keys": own["keys"], "tokens": own["tokens"], **tapped_sizes(self.method), **found}

    def shape(self, dims: tuple[Dim, ...]) -> tuple[int, ...]:
        sizes = self.sizes
        return tuple(dim.evaluate(sizes) for dim in dims)


def tapped_sizes(method: Method) -> dict[str, int]:
    """Sizes of the dimensions that taps name: those of sites that are not there."""
    return {symbol: TAPPED for tap in method.taps for dim in tap.dims for symbol in dim.symbols}


def placed(subject: Subject, situation: Situation) -> Placed:
    """The method of a situation.

    Raises:
        PeftError: the arguments do not fit the spec.
    """
    adapter = subject.build({**subject.args, **situation.args})
    use = next(use for use in adapter.uses if use.label == situation.use)
    return Placed(situation, adapter, use, fixed(use.method, use.args))


def situations(
    subject: Subject, *, use: str | None = None, role: str | None = None,
    dtypes: tuple[str, ...] = DTYPES, training: bool = False,
) -> st.SearchStrategy[Placed]:  # fmt: skip
    """Sites of small sizes that the method's divisions allow, and everything else at random.

    Args:
        subject: What is verified.
        use: Label of the only use to draw; None for all.
        role: The only role to draw; None for all of the use.
        dtypes: Number types to draw from.
        training: Also draw situations with dropout and sampling on.
    """

    @st.composite
    def drawn(draw: st.DrawFn) -> Placed:
        return _drawn(draw, subject, use, role, dtypes, training=training)

    return drawn()


def _drawn(
    draw: st.DrawFn, subject: Subject, use: str | None, role: str | None,
    dtypes: tuple[str, ...], *, training: bool,
) -> Placed:  # fmt: skip
    args = {name: draw(st.sampled_from(values)) for name, values in subject.choices.items()}
    try:
        adapter = subject.build({**subject.args, **args})
    except PeftError:
        assume(False)
        raise
    uses = [u for u in adapter.uses if use in (None, u.label) and roles_of(u)]
    assume(uses)
    chosen = uses[draw(st.integers(0, len(uses) - 1))]
    where = role or draw(st.sampled_from(roles_of(chosen)))
    sizes = _sizes(draw, chosen, where) | _place(draw, chosen, where)
    must, can = _bias(chosen.method, where)
    situation = Situation(
        role=where, use=chosen.label, sizes=sizes, args=args,
        dtype=draw(st.sampled_from(dtypes)), seed=draw(st.integers(0, 9999)),
        bias=must or (can and draw(st.booleans())),
        causal=looks_about(chosen.method, where) and draw(st.booleans()),
        training=training and draw(st.booleans()),
    )  # fmt: skip
    found = Placed(situation, adapter, chosen, fixed(chosen.method, chosen.args))
    assume(_fits(found))
    return found


def looks_about(method: Method, role: str) -> bool:
    """Whether it matters at a site if a token sees later ones."""
    return role != "cross_attn.core" and (role == "attn.core" or bool(mixing(method)))


def _bias(method: Method, role: str) -> tuple[bool, bool]:
    read = set(method.targets)
    for composition in method.compositions:
        read |= names(composition.value)
    read |= {n for t in method.tensors if t.init.expression for n in names(t.init.expression)}
    return "b" in read, "b" in POSITIONS[role]


def _sizes(draw: st.DrawFn, use: Use, role: str) -> dict[str, int]:
    multiples = st.sampled_from((1, 2, 3, 4, *_large(use)))
    factor = _factors(use)
    kv_heads, repeats = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    heads = kv_heads * repeats
    unit = factor("d_head")
    if role in SHARED_WIDTH:
        unit = lcm(unit, factor("d_h"))
    d_head = unit * draw(multiples)
    d_x, d_h = factor("d_x") * draw(multiples), factor("d_h") * draw(multiples)
    if role in SHARED_WIDTH:
        d_h = d_head * (heads if role.endswith("q") else kv_heads)
    layers, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    cross = role == "cross_attn.core"
    return {
        "d_x": d_x, "d_h": d_h, "heads": heads, "kv_heads": kv_heads, "d_head": d_head,
        "layers": layers, "layer": draw(st.integers(0, layers - 1)),
        "vocab": factor("vocab") * draw(st.integers(1, 5)),
        "batch": draw(st.integers(1, 2)), "tokens": tokens,
        "keys": draw(st.integers(1, 4)) if cross else tokens,
    }  # fmt: skip


def _place(draw: st.DrawFn, use: Use, role: str) -> dict[str, int]:
    """One of the alternatives that name the role, where the method asks which it is."""
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


def _factors(use: Use) -> Any:
    """Gives what a site's dimension must be a multiple of, from the method's divisions."""
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
    sequential = use.method.insertion == "sequential"

    def factor(symbol: str) -> int:
        if sequential and symbol == "d_h":
            return lcm(found.get("d_x", 1), found.get("d_h", 1))
        return found.get(symbol, 1)

    return factor


def _quotients(dim: Dim) -> list[Quotient]:
    direct = [atom for monomial, _ in dim.terms for atom, _ in monomial
              if isinstance(atom, Quotient)]  # fmt: skip
    return direct + [inner for q in direct for inner in _quotients(q.numerator)]


def _dims(method: Method) -> list[Dim]:
    found = [dim for tensor in method.tensors for dim in tensor.dims]
    roots = [c.value for c in method.compositions]
    roots += [t.init.expression for t in method.tensors if t.init.expression is not None]
    nodes = postorder(*roots)
    return found + [dim for n in nodes if isinstance(n, Apply) for dim in n.type.dims]


def _fits(found: Placed) -> bool:
    sizes = found.sizes
    calls = [
        node
        for node in postorder(*(c.value for c in found.method.compositions))
        if isinstance(node, Apply) and found.method.taps
    ]
    try:
        fit = all(dim.evaluate(sizes) >= 1 for dim in _dims(found.method))
    except Indivisible:
        return False
    return fit and not any(too_many(call, sizes) for call in calls)


def is_core(role: str) -> bool:
    """Whether a role is an attention product."""
    return POSITIONS[role] is CORE

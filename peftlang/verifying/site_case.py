"""One site to verify a method at: which use, which role, which sizes, which numbers."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from peftlang.ir.dims import Dim
from peftlang.ir.expr import DimValue, Scalar, names, postorder
from peftlang.ir.method import Adapter, Method, Use, fixed
from peftlang.ir.plan import Site
from peftlang.ir.positions import CORE, EMBED, NORM, POSITIONS, PROJECTION, SITE_DIMS
from peftlang.ir.reach import mixing
from peftlang.ir.sizes import site_sizes
from peftlang.verifying.subject import Subject

TAPPED = 5
"""Size of each dimension that a tap names: what is chosen from it leaves something out."""


@dataclass(frozen=True)
class SiteCase:
    """One site as plain data: every tensor follows from it.

    Attributes:
        role: A position of the language.
        use: Label of the adapter's use.
        sizes: d_x, d_h, heads, kv_heads, d_head, layers, layer, vocab, batch, tokens, keys.
        args: Hyper-parameters of the spec's entry.
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


@dataclass(frozen=True, eq=False)
class PlacedMethod:
    """A method at one site.

    Attributes:
        case: The site.
        adapter: The adapter that the use is of.
        use: The use.
        method: Its method, arguments fixed.
    """

    case: SiteCase
    adapter: Adapter
    use: Use
    method: Method

    @cached_property
    def site(self) -> Site:
        """The site as the compiler would describe it."""
        case = self.case
        scope = POSITIONS[case.role]
        own = SITE_DIMS - {"layer", "keys", "tokens"}
        return Site(
            id=f"site#{case.role}",
            role=case.role,
            path="site",
            stack="layers",
            layer=case.sizes.get("layer", 0),
            weight="W" if "W" in scope else None,
            bias="b" if "b" in scope and case.bias else None,
            anchors=("W",) if "W" in scope else (),
            dims={k: v for k, v in case.sizes.items() if k in own},
        )

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Size of every dimension of the method."""
        own = self.case.sizes
        found = site_sizes(self.method, self.use.args, self.site)
        return {"keys": own["keys"], "tokens": own["tokens"], **tapped_sizes(self.method), **found}

    @property
    def sizes_that_matter(self) -> dict[str, int]:
        """The site's sizes that tensors and expressions name, and more than one row or token."""
        method, scope = self.method, POSITIONS[self.case.role]
        values = [*(c.value for c in method.compositions), *method.penalties]
        read = names(*values) | set(method.targets)
        dims = [dim for name in read & scope.keys() for dim in scope[name].dims]
        dims += [dim for own in declared(method).values() for dim in own]
        dims += [node.dim for node in postorder(*values) if isinstance(node, DimValue)]
        named = {symbol for dim in dims for symbol in dim.symbols}
        sizes = self.case.sizes.items()
        several = {name for name, size in sizes if size > 1} & {"batch", "tokens"}
        return {name: size for name, size in sizes if name in named | several}

    def __str__(self) -> str:
        case = self.case
        args = ", ".join(f"{name} = {value}" for name, value in case.args.items())
        sizes = ", ".join(f"{name} = {size}" for name, size in self.sizes_that_matter.items())
        return f"{case.use}({args}) at {case.role} with {sizes} ({case.dtype}, seed {case.seed})"

    def shape(self, dims: tuple[Dim, ...]) -> tuple[int, ...]:
        sizes = self.sizes
        return tuple(dim.evaluate(sizes) for dim in dims)


def tapped_sizes(method: Method) -> dict[str, int]:
    """Sizes of the dimensions that taps name: those of sites that are not there."""
    return {symbol: TAPPED for tap in method.taps for dim in tap.dims for symbol in dim.symbols}


def place(subject: Subject, case: SiteCase) -> PlacedMethod:
    """The method that acts at a site.

    Raises:
        PeftError: the arguments do not fit the spec.
    """
    adapter = subject.build({**subject.args, **case.args})
    use = next(use for use in adapter.uses if use.label == case.use)
    return PlacedMethod(case, adapter, use, fixed(use.method, use.args))


def is_attention_product(role: str) -> bool:
    """Whether a role is where queries meet keys."""
    return POSITIONS[role] is CORE


def computes_its_output(role: str) -> bool:
    """Whether a site's ``h`` follows from what it reads and its weights; else ``h`` is drawn."""
    return any(POSITIONS[role] is scope for scope in (PROJECTION, NORM, EMBED, CORE))


def order_matters(method: Method, role: str) -> bool:
    """Whether it makes a difference at a site if a token sees later ones."""
    return role != "cross_attn.core" and (role == "attn.core" or bool(mixing(method)))


def reads_bias(method: Method) -> bool:
    """Whether a method reads or writes the site's own ``b``, and so wants a site that has one."""
    starts = (t.init.expression for t in method.tensors if t.init.expression is not None)
    read = names(*starts, *(c.value for c in method.compositions)).union(method.targets)
    return "b" in read - declared(method).keys()


def declared(method: Method) -> dict[str, tuple[Dim, ...]]:
    """Dimensions of all that a method declares, by name: tensors, and what it is given."""
    return {tensor.name: tensor.dims for tensor in method.tensors} | given_to(method)


def given_to(method: Method) -> dict[str, tuple[Dim, ...]]:
    """Dimensions of a method's inputs, taps and carried states, by name."""
    found = {entry.name: entry.dims for entry in method.inputs}
    found |= {entry.name: entry.dims for entry in method.taps}
    return found | {entry.name: entry.dims for entry in method.carries}

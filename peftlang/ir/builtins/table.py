"""The shape of one entry in the table of builtins.

An entry holds all that the language knows of a function: its type rule, its meaning, in
which operands it is linear, and its cost. The meaning is written against the tensor library
that the caller passes in, so that this table, and all that checks a spec, never loads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from peftlang.ir.builtins.site import AtSite
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, DimValue, Expr, Number, children, names, postorder
from peftlang.ir.types import Level, Type, TypeFact


@dataclass(frozen=True)
class Signature:
    """The operands of a call, as a type rule sees them."""

    args: tuple[Expr, ...]
    keywords: Mapping[str, Expr] = field(default_factory=dict)
    over: tuple[Dim, ...] = ()

    @property
    def types(self) -> tuple[Type, ...]:
        return tuple(arg.type for arg in self.args)

    def dim(self, index: int) -> Dim:
        """Operand ``index`` read as a dimension: ``reshape(v, d_h, r)``."""
        found = as_dim(self.args[index])
        if found is None:
            raise TypeFact(
                "T211",
                "a dimension is wanted here",
                index,
                help="write whole numbers, dimensions, `+ - * /`",
            )
        return found

    def is_number(self, index: int) -> bool:
        """Whether an operand is a plain number, which no tensor has a part in."""
        have = self.types[index]
        return not have.dims and have.level is Level.CONST and not names(self.args[index])

    def tensor(self, index: int = 0) -> Type:
        """The type of an operand that has to be a tensor of real or complex numbers.

        Raises:
            TypeFact: T209, it is a plain number, or it holds whole numbers.
        """
        if self.is_number(index):
            raise TypeFact("T209", "a tensor is wanted, and this is a number", index)
        return self.inexact(index)

    def inexact(self, index: int = 0) -> Type:
        """The type of an operand that may be a number, or a tensor but not of whole numbers."""
        have = self.types[index]
        if have.kind in ("int", "bool") and not self.is_number(index):
            message = f"this holds whole numbers, {have}"
            raise TypeFact("T209", message, index, help="`1.0 * …` makes them real")
        return have


@dataclass(frozen=True)
class Evaluation:
    """The operands of a call, as a meaning sees them.

    Attributes:
        t: The tensor library (``torch``).
        args: Operands: tensors laid out ``[*implicit, *dims]``, or Python numbers.
        types: Their types; ``result`` is the call's own.
        keywords: Evaluated named arguments.
        size: The concrete size of a dimension at this site.
        training: Whether the model is in training mode.
        precisely: Brings a tensor of half precision to single precision; None where there are none.
        site: What is asked of the site besides its values.
        memo: What meanings keep for one another while one method is evaluated at one site.
        real: For the length of a tapped sequence, which of its tokens are no padding:
            ``[batch, length]``, or None where all are.
    """

    t: Any
    args: tuple[Any, ...]
    types: tuple[Type, ...]
    result: Type
    keywords: Mapping[str, Any]
    over: tuple[Dim, ...]
    size: Callable[[Dim], int]
    training: bool = False
    precisely: Callable[[Any], Any] | None = None
    site: AtSite = field(default_factory=AtSite)
    memo: dict[Any, Any] = field(default_factory=dict)
    real: Callable[[Dim], Any] = lambda _: None

    def precise(self, value: Any) -> Any:
        """``value`` in float32 where it is half precision, which some operators refuse."""
        return value if self.precisely is None else self.precisely(value)


Sign = Literal["", "nonzero", "not negative", "positive"]
"""What is known of every element of a tensor."""

Rule = Callable[[Signature], Type]
Meaning = Callable[[Evaluation], Any]
Cost = Callable[[Apply], Dim]
Size = Callable[[Dim], int]


@dataclass(frozen=True)
class Fast:
    """How a structured matrix is multiplied without being written out.

    Attributes:
        apply: ``apply(call, vectors, transposed)``: the matrix, or its transpose, times vectors
            ``[..., columns]``, which are ``[..., rows]`` then. ``call`` holds the operands of the
            matrix, not of the product.
        cost: Floating-point operations done once, and for each vector; the same for the
            transpose.
        through: Whether it is multiplied by multiplying with its operand, where that is itself
            a structured matrix. In place of the operand ``call`` then holds a function
            ``(vectors, transposed)``, and the cost is what comes on top of the operand's.
    """

    apply: Callable[[Evaluation, Any, bool], Any]
    cost: Callable[[Apply, Size], tuple[int, int]]
    through: bool = False


@dataclass(frozen=True)
class Builtin:
    """One function of the language.

    Attributes:
        name: As written in a spec; operators have their symbol.
        signature: How it is called, for messages and for the reference.
        doc: One sentence for the reference.
        arity: Fewest and most positional operands.
        rule: Type of the result; raises ``TypeFact``.
        meaning: The computation.
        linear: Operands in which the function is linear when the others are held fixed.
        jointly: True when it is linear in all of ``linear`` together (``+``), rather than in
            each alone (``*``).
        zero: Whether the result is zero when "any" operand of ``linear`` is, when "all" operands
            are, or "never" for certain (this proves identity at initialisation).
        eye: The result is the identity matrix when every operand is this: ``"zero"``,
            ``"ones"`` (every element 1) or ``"eye"`` itself.
        flat_at_zero: Where the operand is zero, a small change of it changes nothing.
        needs: Which operands have to have which sign, for the result to be finite numbers.
        sign: The sign of the result, whatever the operands are.
        rearranges: The elements of the result are elements of the operands.
        transparent: The result is the first operand, in eval mode.
        keeps_orthonormal: An operand whose rows start orthonormal is the result.
        orthogonal: The result is orthogonal ``"always"``, when its operand is ``"skew"``, or when
            its operands are (``"operands"``).
        reads: Whose values the result at one token may depend on: the token's ``own``, those that
            it has ``seen`` (masks included), or ``all``.
        cost: Floating-point operations, for one token or one row where the level says so.
        fast: For a structured matrix, how it is multiplied without being written out.
        over: True when a call names the dimensions it works over.
        keywords: Named arguments it takes.
        single_precision: Computed in float32 where the operands are half precision.
        activation: An elementwise function that an ``fn`` hyper-parameter may name.
        random: Draws random numbers when training.
        asks: What it asks of the call besides its operands: where the tokens lie ("places"), or
            which ids they have ("ids").
        texts: Whether operands may be texts.
        at_most: For a call, the index of an operand that is a whole number, and the dimensions
            none of which it may exceed.
    """

    name: str
    signature: str
    doc: str
    arity: tuple[int, int]
    rule: Rule
    meaning: Meaning
    linear: tuple[int, ...] = ()
    jointly: bool = False
    zero: Literal["any", "all", "never"] = "never"
    eye: Literal["zero", "ones", "eye"] | None = None
    flat_at_zero: bool = False
    needs: tuple[tuple[int, Sign], ...] = ()
    sign: Sign = ""
    rearranges: bool = False
    transparent: bool = False
    keeps_orthonormal: bool = False
    orthogonal: Literal["always", "skew", "operands"] | None = None
    reads: Literal["own", "seen", "all"] = "own"
    cost: Cost = lambda call: call.type.size
    fast: Fast | None = None
    over: bool = False
    keywords: tuple[str, ...] = ()
    single_precision: bool = False
    activation: bool = False
    random: bool = False
    asks: Literal["", "places", "ids"] = ""
    texts: bool = False
    at_most: Callable[[Apply], tuple[int, tuple[Dim, ...]]] | None = None


def as_dim(expr: Expr) -> Dim | None:
    """``expr`` as a dimension, or None when it is not built of integers and dimensions.

    Raises:
        TooComplex: the dimension is past the bounds of `peftlang.ir.dims`.
        ZeroDivisionError: it divides by zero.
    """
    done: dict[int, Dim | None] = {}
    for node in postorder(expr):
        below = [done[id(child)] for child in children(node)]
        done[id(node)] = _as_dim(node, below)
    return done[id(expr)]


def _as_dim(node: Expr, below: list[Dim | None]) -> Dim | None:
    if isinstance(node, DimValue):
        return node.dim
    if isinstance(node, Number):
        whole = isinstance(node.value, int) and not isinstance(node.value, bool)
        return Dim.of(int(node.value)) if whole else None
    known = [dim for dim in below if dim is not None]
    if not isinstance(node, Apply) or node.op not in _DIM_OPERATORS or len(known) != len(below):
        return None
    return _DIM_OPERATORS[node.op](*known)


_DIM_OPERATORS: dict[str, Callable[..., Dim]] = {
    "+": Dim.__add__,
    "-": Dim.__sub__,
    "*": Dim.__mul__,
    "/": Dim.__truediv__,
    "neg": Dim.__neg__,
}

"""Types of expressions: named dimensions, and what they vary with."""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

from peftlang.ir.dims import Dim, product

Kind = Literal["float", "int", "bool", "complex"]


class Level(IntEnum):
    """What a value varies with. A higher level carries the lower one's implicit dimensions.

    ``CONST`` values are the same for every input (parameters, weights, numbers). ``EXAMPLE``
    values differ from row to row of the batch. ``TOKEN`` values differ from token to token.
    """

    CONST = 0
    EXAMPLE = 1
    TOKEN = 2


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a tensor expression: its named dimensions, level, and kind of number.

    Batch and sequence are not among ``dims``: the level says whether they are there.
    """

    dims: tuple[Dim, ...] = ()
    level: Level = Level.CONST
    kind: Kind = "float"

    @property
    def size(self) -> Dim:
        """Number of elements, for one token or one row where the level says so."""
        return product(self.dims)

    def with_dims(self, *dims: Dim) -> "Type":
        return replace(self, dims=dims)

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.dims))}]"


SCALAR = Type()


class TypeFact(Exception):
    """A short fact about an ill-typed expression; the checker adds place and source line.

    Args:
        code: The diagnostic's code, one of the T2xx family.
        message: What is wrong, in the user's terms.
        argument: Index of the argument at fault; None for the whole expression.
        help: The edit that mends it, where there is one.
    """

    def __init__(
        self, code: str, message: str, argument: int | None = None, *, help: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.argument, self.help = code, message, argument, help


def align(left: Type, right: Type) -> Type:
    """The type of an elementwise operation: dimensions are aligned by name.

    Raises:
        TypeFact: T202, a name that both have occurs twice in one, so its partner is ambiguous.
    """
    dims = align_dims(left.dims, right.dims)
    return Type(dims, max(left.level, right.level), _join_kinds(left.kind, right.kind))


def align_dims(left: tuple[Dim, ...], right: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The dimensions of an elementwise result: the fuller operand's order, extras last."""
    if left == right or not right:
        return left
    if not left:
        return right
    for number, (dims, others) in enumerate(((left, right), (right, left))):
        # A name that the other operand has not needs no partner, however often it occurs.
        twice = next((d for d in dims if dims.count(d) > 1 and d in others), None)
        if twice is not None:
            raise TypeFact(
                "T202",
                f"dimension `{twice}` occurs twice in [{', '.join(map(str, dims))}], so it is "
                f"ambiguous which one lines up with the other operand's `{twice}`",
                number,
                help="say it with a product: `diag(v) @ M` scales rows, `M @ diag(v)` columns",
            )
    if set(left) < set(right):
        return right
    return left + tuple(d for d in right if d not in left)


def contract(left: Type, right: Type) -> tuple[Type, int]:
    """The type of ``left @ right``, and how many leading dimensions are batched.

    The last dimension of ``left`` is summed with the dimension of the same name in
    ``right``, after the leading dimensions that both name.

    Raises:
        TypeFact: T201, the dimensions do not meet.
    """
    if not left.dims or not right.dims:
        side = "left" if not left.dims else "right"
        raise TypeFact(
            "T201",
            f"`@` contracts dimensions, but the {side} operand is a single number",
            help="use `*` to scale",
        )
    summed = left.dims[-1]
    for batched in range(min(len(left.dims), len(right.dims))):
        if left.dims[:batched] == right.dims[:batched] and right.dims[batched] == summed:
            dims = left.dims[:-1] + right.dims[batched + 1 :]
            kind = _join_kinds(left.kind, right.kind)
            return Type(dims, max(left.level, right.level), kind), batched
    raise TypeFact(
        "T201",
        f"`@` cannot contract {left} with {right}: the last dimension on the left is "
        f"`{summed}`, and the right operand offers `{right.dims[0]}`",
        help=_contract_help(left, right),
    )


def _contract_help(left: Type, right: Type) -> str | None:
    if len(left.dims) >= 2 and left.dims[-2] == right.dims[0]:
        return "the left operand fits when transposed: `transpose(...) @ ...`"
    if len(right.dims) >= 2 and right.dims[1] == left.dims[-1]:
        return "the right operand fits when transposed: `... @ transpose(...)`"
    if right.dims[0] == left.dims[0] and len(left.dims) == 2:
        return "the factors fit in the other order"
    return None


def _join_kinds(left: Kind, right: Kind) -> Kind:
    order: tuple[Kind, ...] = ("bool", "int", "float", "complex")
    return max(left, right, key=order.index)

"""The clauses of a method."""

from peftlang.syntax.nodes.expressions import Expr
from peftlang.syntax.nodes.node import Ident, Node
from peftlang.syntax.nodes.selectors import Selector


class Grouped(Node):
    """`layers(4)` after `across`: so many neighbours share, rather than all."""

    name: Ident
    size: Expr


class Joined(Node):
    """`stacks and roles` after `across`: sites that differ in either share."""

    axes: tuple[Ident | Grouped, ...]


Axis = Ident | Grouped | Joined


def axes_of(axis: Axis | None) -> tuple[Ident | Grouped, ...]:
    """The axes that are joined by `and`, in order; one alone by itself, none for none."""
    if axis is None:
        return ()
    return axis.axes if isinstance(axis, Joined) else (axis,)


class Param(Node):
    """`param NAME[dims] ~ init shared across AXIS`: a trainable tensor."""

    name: Ident
    dims: tuple[Expr, ...]
    init: Expr
    shared: Axis | None = None


class Buffer(Node):
    """`buffer NAME[dims] ~ init shared across AXIS`: a frozen tensor."""

    name: Ident
    dims: tuple[Expr, ...]
    init: Expr
    shared: Axis | None = None


class Input(Node):
    """`input NAME[dims] : type`: a value that the caller supplies at run time."""

    name: Ident
    dims: tuple[Expr, ...]
    type: Expr


class Carry(Node):
    """`carry NAME[dims] ~ init`: a state that each site hands to the next."""

    name: Ident
    dims: tuple[Expr, ...]
    init: Expr


class Tap(Node):
    """`tap NAME[dims] = SELECTOR.VALUE SCOPES`: what another site has."""

    name: Ident
    dims: tuple[Expr, ...]
    value: Ident
    selector: Selector


class Let(Node):
    """`let NAME = value`."""

    name: Ident
    value: Expr


class Position(Node):
    """`position SELECTOR`."""

    selector: Selector


class Function(Node):
    """`function NAME = value`: the change."""

    name: Ident
    value: Expr


class Insertion(Node):
    """`insertion parallel | sequential`; any other word is left to the checker."""

    form: Ident


class Composition(Node):
    """`composition TARGET = value`."""

    target: Ident
    value: Expr


class Sharing(Node):
    """`sharing NAMES across AXIS`; `sharing none` has no names and no axis."""

    names: tuple[Ident, ...]
    axis: Axis | None


class Penalty(Node):
    """`penalty value`: a term added to the training loss."""

    value: Expr


class Rate(Node):
    """`rate NAMES = value`: the learning rate of tensors, as a multiple of the adapter's."""

    names: tuple[Ident, ...]
    value: Expr


class Ensure(Node):
    """`ensure property, …`: each a name, a call, or a comparison."""

    properties: tuple[Expr, ...]


Clause = (
    Param
    | Buffer
    | Input
    | Carry
    | Tap
    | Let
    | Position
    | Function
    | Insertion
    | Composition
    | Sharing
    | Penalty
    | Rate
    | Ensure
)

"""The abstract syntax of a `.peft` file: immutable, and equal when they say the same.

Spans, parentheses and comments do not take part in equality, so two texts that differ in
layout alone have equal trees.
"""

from dataclasses import dataclass, field
from typing import Literal

from peftlang.diagnostics import Source, Span


@dataclass(frozen=True, slots=True)
class Node:
    """Something that a person wrote, and where."""

    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Comment(Node):
    """`# text`, from the sign to the end of its line."""

    text: str


@dataclass(frozen=True, slots=True)
class Docstring(Node):
    """The text between triple quotes; line endings are line feeds, trailing blanks are gone."""

    text: str


@dataclass(frozen=True, slots=True)
class Ident(Node):
    """A name where it is declared, or where it stands for something other than a value."""

    text: str


# --- expressions ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A name that is read."""

    text: str
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A literal; `text` is how it was written, `1e-7` or `0.5`."""

    value: int | float
    text: str = field(compare=False)
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class String(Node):
    """A quoted text; there are no escapes."""

    value: str
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Boolean(Node):
    """`true` or `false`."""

    value: bool
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`-operand`."""

    op: Literal["-"]
    operand: "Expr"
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """Arithmetic; `op_span` is the operator itself."""

    op: Literal["+", "-", "*", "/", "@", "**"]
    left: "Expr"
    right: "Expr"
    op_span: Span = field(compare=False)
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """One comparison; comparisons do not chain."""

    op: Literal["==", "!=", "<", "<=", ">", ">="]
    left: "Expr"
    right: "Expr"
    op_span: Span = field(compare=False)
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Logic(Node):
    """`left and right`, `left or right`."""

    op: Literal["and", "or"]
    left: "Expr"
    right: "Expr"
    op_span: Span = field(compare=False)
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Argument(Node):
    """One argument of a call or use; `name` is None where it is given by place."""

    name: Ident | None
    value: "Expr"


@dataclass(frozen=True, slots=True)
class Over(Node):
    """`over DIM` in a call: the dimension that is reduced."""

    dim: "Expr"


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`function(arguments)`."""

    function: Ident
    arguments: "tuple[Argument | Over, ...]"
    parens: bool = field(default=False, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Index(Node):
    """`base[indices]`, one index or more."""

    base: "Expr"
    indices: "tuple[Expr, ...]"
    parens: bool = field(default=False, compare=False, kw_only=True)


Expr = Name | Number | String | Boolean | Unary | Binary | Compare | Logic | Call | Index


# --- selectors -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Role(Node):
    """A dotted name: `attn.q`, `ffn`, `norm.weight`."""

    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The name as it is written."""
        return ".".join(self.parts)


@dataclass(frozen=True, slots=True)
class Glob(Node):
    """A quoted pattern of module paths."""

    pattern: str


@dataclass(frozen=True, slots=True)
class LayerRange(Node):
    """`first..last`, both included; None is an open end; `layers[3]` has both ends equal."""

    first: Expr | None
    last: Expr | None


@dataclass(frozen=True, slots=True)
class Layers(Node):
    """`in layers[0..3, -1]`; no ranges is every layer."""

    ranges: tuple[LayerRange, ...]


@dataclass(frozen=True, slots=True)
class Side(Node):
    """`in encoder`, `in decoder`, `in vision_model`: a part of the model by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Except(Node):
    """`except SELECTOR`."""

    selector: "Selector"


@dataclass(frozen=True, slots=True)
class Where(Node):
    """`where CONDITION`."""

    condition: Expr


Scope = Layers | Side | Except | Where


@dataclass(frozen=True, slots=True)
class Either(Node):
    """A list: what any of two or more options selects."""

    options: "tuple[Selector, ...]"


@dataclass(frozen=True, slots=True)
class Scoped(Node):
    """A selector narrowed by one scope or more, all of which must hold.

    In a list, a scope narrows every name since the one before it: `attn.q, attn.v in encoder`
    is both in the encoder. Names after `except` are excepted, up to the next scope.
    """

    selector: "Selector"
    scopes: tuple[Scope, ...]


Selector = Role | Glob | Either | Scoped


# --- clauses of a method -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grouped(Node):
    """`layers(4)` after `across`: so many neighbours share, rather than all."""

    name: Ident
    size: Expr


@dataclass(frozen=True, slots=True)
class Joined(Node):
    """`stacks and roles` after `across`: sites that differ in either share."""

    axes: tuple[Ident | Grouped, ...]


Axis = Ident | Grouped | Joined


def axes_of(axis: Axis | None) -> tuple[Ident | Grouped, ...]:
    """The axes that are joined by `and`, in order; one alone by itself, none for none."""
    if axis is None:
        return ()
    return axis.axes if isinstance(axis, Joined) else (axis,)


@dataclass(frozen=True, slots=True)
class Param(Node):
    """`param NAME[dims] ~ init shared across AXIS`: a trainable tensor."""

    name: Ident
    dims: tuple[Expr, ...]
    init: Expr
    shared: Axis | None = None


@dataclass(frozen=True, slots=True)
class Buffer(Node):
    """`buffer NAME[dims] ~ init shared across AXIS`: a frozen tensor."""

    name: Ident
    dims: tuple[Expr, ...]
    init: Expr
    shared: Axis | None = None


@dataclass(frozen=True, slots=True)
class Input(Node):
    """`input NAME[dims] : type`: a value that the caller supplies at run time."""

    name: Ident
    dims: tuple[Expr, ...]
    type: Expr


@dataclass(frozen=True, slots=True)
class Carry(Node):
    """`carry NAME[dims] ~ init`: a state that each site hands to the next."""

    name: Ident
    dims: tuple[Expr, ...]
    init: Expr


@dataclass(frozen=True, slots=True)
class Tap(Node):
    """`tap NAME[dims] = SELECTOR.VALUE SCOPES`: what another site has."""

    name: Ident
    dims: tuple[Expr, ...]
    value: Ident
    selector: Selector


@dataclass(frozen=True, slots=True)
class Let(Node):
    """`let NAME = value`."""

    name: Ident
    value: Expr


@dataclass(frozen=True, slots=True)
class Position(Node):
    """`position SELECTOR`."""

    selector: Selector


@dataclass(frozen=True, slots=True)
class Function(Node):
    """`function NAME = value`: the change."""

    name: Ident
    value: Expr


@dataclass(frozen=True, slots=True)
class Insertion(Node):
    """`insertion parallel | sequential`; any other word is left to the checker."""

    form: Ident


@dataclass(frozen=True, slots=True)
class Composition(Node):
    """`composition TARGET = value`."""

    target: Ident
    value: Expr


@dataclass(frozen=True, slots=True)
class Sharing(Node):
    """`sharing NAMES across AXIS`; `sharing none` has no names and no axis."""

    names: tuple[Ident, ...]
    axis: Axis | None


@dataclass(frozen=True, slots=True)
class Penalty(Node):
    """`penalty value`: a term added to the training loss."""

    value: Expr


@dataclass(frozen=True, slots=True)
class Rate(Node):
    """`rate NAMES = value`: the learning rate of tensors, as a multiple of the adapter's."""

    names: tuple[Ident, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
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


# --- a file --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportedName(Node):
    """`name` or `name as alias`."""

    name: Ident
    alias: Ident | None


@dataclass(frozen=True, slots=True)
class Import(Node):
    """`from SOURCE import NAMES`.

    `source` is a String for a path beside this file, an Ident for the standard library.
    """

    source: String | Ident
    names: tuple[ImportedName, ...]


@dataclass(frozen=True, slots=True)
class HyperParameter(Node):
    """`name: type = default`; `type` is one of `TYPES`, checked by the parser."""

    name: Ident
    type: Ident
    default: Expr | None


@dataclass(frozen=True, slots=True)
class Method(Node):
    """`method NAME(parameters) { clauses }`, clauses in the order written."""

    name: Ident
    parameters: tuple[HyperParameter, ...]
    clauses: tuple[Clause, ...]
    docstring: Docstring | None = None


@dataclass(frozen=True, slots=True)
class Use(Node):
    """`method(arguments) at SELECTOR with CLAUSE, …` in an adapter."""

    method: Ident
    arguments: tuple[Argument, ...]
    at: Selector | None
    overrides: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class Train(Node):
    """`train SELECTOR`: base parameters that are unfrozen."""

    selector: Selector


@dataclass(frozen=True, slots=True)
class Tie(Node):
    """`sharing NAMES across USES` in an adapter: tensors of several uses that are the same."""

    names: tuple[Ident, ...]
    uses: tuple[Ident, ...]


@dataclass(frozen=True, slots=True)
class Adapter(Node):
    """`adapter NAME(parameters) { uses }`."""

    name: Ident
    parameters: tuple[HyperParameter, ...]
    clauses: tuple[Use | Train | Tie, ...]
    docstring: Docstring | None = None


Item = Import | Method | Adapter


@dataclass(frozen=True, slots=True)
class File(Node):
    """A whole file, its items in order; after parse errors, those that could be read.

    `docstring` is one that opens the file and belongs to no method. `comments` and `source`
    are what the formatter needs to keep comments and blank lines where they were.
    """

    items: tuple[Item, ...]
    docstring: Docstring | None = None
    comments: tuple[Comment, ...] = field(default=(), compare=False)
    source: Source | None = field(default=None, compare=False, repr=False)


TYPES = ("int", "float", "bool", "str", "fn")

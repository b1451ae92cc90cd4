"""Expressions: values, and what is computed from them."""

from dataclasses import field
from typing import Literal

from peftlang.diagnostics import Span
from peftlang.syntax.nodes.node import Ident, Node


class Expression(Node):
    """A node that may have been written in parentheses."""

    parens: bool = field(default=False, compare=False, kw_only=True)


class Name(Expression):
    """A name that is read."""

    text: str


class Number(Expression):
    """A literal; `text` is how it was written, `1e-7` or `0.5`."""

    value: int | float
    text: str = field(compare=False)


class String(Expression):
    """A quoted text; there are no escapes."""

    value: str


class Boolean(Expression):
    """`true` or `false`."""

    value: bool


class Unary(Expression):
    """`-operand`."""

    op: Literal["-"]
    operand: "Expr"


class Binary(Expression):
    """Arithmetic; `op_span` is the operator itself."""

    op: Literal["+", "-", "*", "/", "@", "**"]
    left: "Expr"
    right: "Expr"
    op_span: Span = field(compare=False)


class Compare(Expression):
    """One comparison; comparisons do not chain."""

    op: Literal["==", "!=", "<", "<=", ">", ">="]
    left: "Expr"
    right: "Expr"
    op_span: Span = field(compare=False)


class Logic(Expression):
    """`left and right`, `left or right`."""

    op: Literal["and", "or"]
    left: "Expr"
    right: "Expr"
    op_span: Span = field(compare=False)


class Argument(Node):
    """One argument of a call or use; `name` is None where it is given by place."""

    name: Ident | None
    value: "Expr"


class Over(Node):
    """`over DIM` in a call: the dimension that is reduced."""

    dim: "Expr"


class Call(Expression):
    """`function(arguments)`."""

    function: Ident
    arguments: "tuple[Argument | Over, ...]"


class Index(Expression):
    """`base[indices]`, one index or more."""

    base: "Expr"
    indices: "tuple[Expr, ...]"


Expr = Name | Number | String | Boolean | Unary | Binary | Compare | Logic | Call | Index

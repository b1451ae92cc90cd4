"""Selectors: which sites of a model a method is placed on."""

from peftlang.syntax.nodes.expressions import Expr
from peftlang.syntax.nodes.node import Node


class Role(Node):
    """A dotted name: `attn.q`, `ffn`, `norm.weight`."""

    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The name as it is written."""
        return ".".join(self.parts)


class Glob(Node):
    """A quoted pattern of module paths."""

    pattern: str


class LayerRange(Node):
    """`first..last`, both included; None is an open end; `layers[3]` has both ends equal."""

    first: Expr | None
    last: Expr | None


class Layers(Node):
    """`in layers[0..3, -1]`; no ranges is every layer."""

    ranges: tuple[LayerRange, ...]


class Side(Node):
    """`in encoder`, `in decoder`, `in vision_model`: a part of the model by its name."""

    name: str


class Except(Node):
    """`except SELECTOR`."""

    selector: "Selector"


class Where(Node):
    """`where CONDITION`."""

    condition: Expr


Scope = Layers | Side | Except | Where


class Either(Node):
    """A list: what any of two or more options selects."""

    options: "tuple[Selector, ...]"


class Scoped(Node):
    """A selector narrowed by one scope or more, all of which must hold.

    In a list, a scope narrows every name since the one before it: `attn.q, attn.v in encoder`
    is both in the encoder. Names after `except` are excepted, up to the next scope.
    """

    selector: "Selector"
    scopes: tuple[Scope, ...]


Selector = Role | Glob | Either | Scoped

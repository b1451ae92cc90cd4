"""Names of the values that a written method takes from outside of the graph at hand."""

from dataclasses import dataclass, field
from typing import Literal

SLOT = "peftlang_slot"
"""Key of ``node.meta`` that marks a placeholder, and says by a `Slot` which value it takes."""

Kind = Literal[
    "tensor",
    "input",
    "weight",
    "buffer",
    "constant",
    "token",
    "filled",
    "cached",
    "grid",
    "value",
    "tap",
    "state",
    "penalty",
]


@dataclass(frozen=True)
class Slot:
    """One value that comes from outside of a graph, or that a graph hands on.

    Attributes:
        kind: What it is.

            - ``tensor``: a tensor of an adapter, by adapter and group.
            - ``input``: what the caller supplies, by name.
            - ``weight``: a parameter of the base, by its qualified name.
            - ``buffer``: a buffer of the base, likewise.
            - ``constant``: a tensor that was there when a graph was recorded.
            - ``token``: a fact about each token of a sequence, ``side.fact``.
            - ``filled``: there where soft tokens stand before a sequence, by side.
            - ``cached``: how many tokens of a sequence a cache holds, ``[1]``.
            - ``grid``: what cut an image into patches, if this call has one.
            - ``value``: what a module read or made earlier in this call, by its place.
            - ``tap``: what another site has, ``site.name``.
            - ``state``: a carried state, as the site before left it.
            - ``penalty``: a term of the loss, by adapter and placement.
        name: Which.
        adapter: Whose, for tensors, states and penalties.
        key: One word for it, by which a call finds its value.
    """

    kind: Kind
    name: str
    adapter: str = ""
    key: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = f"{self.adapter}.{self.name}" if self.adapter else self.name
        key = name if self.kind in {"tensor", "weight"} else f"{self.kind}:{name}"
        object.__setattr__(self, "key", key)

    def __str__(self) -> str:
        return self.key

"""A site's names as values of the language: laid out ``[*implicit, *dims]``, and back."""

from copy import copy
from typing import Any, Self

from torch import Tensor
from torch.fx import Node

from peftlang.capture.facts import VALUE
from peftlang.emit.rewriting import Emission, Rewriting
from peftlang.emit.rows import scattered, select
from peftlang.emit.tokens import Sequence
from peftlang.ir.builtins.site import AtSite
from peftlang.ir.plan import Site
from peftlang.ir.types import Type
from peftlang.sites.occurrence import Occurrence


class SiteView(AtSite):
    """The names in scope at one occurrence of a site.

    Subclasses know where features, heads and keys stand in the graph's tensors.

    Attributes:
        now: The nodes that hold the names now; those of the occurrence until they are changed.
        known: A name that has a value for each token and is there where operations are written.
    """

    known = "h"

    def __init__(self, occurrence: Occurrence, emission: Emission, work: Rewriting) -> None:
        self.occurrence, self.emission, self.work = occurrence, emission, work
        self.now: dict[str, Node] = dict(occurrence.values)

    @property
    def site(self) -> Site:
        """The site."""
        return self.occurrence.site

    def at(self, emission: Emission) -> Self:
        """The same names, to be read at another point of the graph."""
        twin = copy(self)
        twin.emission = emission
        return twin

    def read(self, name: str) -> Any:
        """The value of a name, laid out for the language."""
        return self.emission.proxy(self.now[name])

    def restored(self, target: str, value: Any) -> Any:
        """A new value of a name in the layout of the graph."""
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a name's tensor when the model was recorded; empty if it is not there."""
        node = self.occurrence.values.get(name)
        value = node.meta.get(VALUE) if node is not None else None
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    @property
    def is_flat(self) -> bool:
        """Whether batch and tokens are one dimension at the site."""
        return len(self.shape("h")) == 2

    @property
    def sequence(self) -> Sequence:
        """The site's tokens, for builtins that ask where they lie or which they are."""
        return Sequence(self)

    def average(self, value: Any, have: Type) -> Any:
        """The mean over the real tokens of all rows (``mean(x, over batch)``)."""
        return self.sequence.average(value, have)


class ProjectionView(SiteView):
    """A projection: weights may be stored transposed, and an image's patches channel by channel.

    Where the graph itself takes the role's rows out of a fused weight, ``W``, ``b`` and ``h`` are
    those rows alone; else they are the whole's.
    """

    def read(self, name: str) -> Any:
        value = super().read(name)
        if name == "W" and self.site.transposed:
            value = value.transpose(0, 1)
        if name in {"W", "b"} and self._taken:
            value = select(value, self._taken, axis=0)
        if name == "h" and self.occurrence.layout.get("h") == "bchw":
            value = value.movedim(1, -1)
        return value

    def restored(self, target: str, value: Any) -> Any:
        if target in {"W", "b"} and self._taken:
            whole = self.emission.proxy(self.now[target])
            if target == "W" and self.site.transposed:
                whole = whole.transpose(0, 1)
            value = scattered(whole, value, self._taken, axis=0)
        if target == "W" and self.site.transposed:
            value = value.transpose(0, 1)
        if target == "h" and self.occurrence.layout.get("h") == "bchw":
            value = value.movedim(-1, 1)
        return value

    @property
    def _taken(self) -> Any:
        """The rows of the parameter that the graph itself takes out."""
        return self.site.rows if self.occurrence.sliced else None

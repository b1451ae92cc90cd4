"""What runs in a region: pieces of code, and where each stands in what the model does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peftlang.dataflow.borders import Border
from peftlang.emit.slots import Slot


@dataclass(frozen=True)
class Operand:
    """One operand of an operation: its place, or its name, and from there.

    Attributes:
        key: Its place, or its name.
        path: From there, indices of sequences.
        into: Whether a new value is written into the model's own tensor, since the operation itself
            writes there, and the model may go on reading that tensor rather than the result.
    """

    key: int | str
    path: tuple[Any, ...] = ()
    into: bool = False


@dataclass(frozen=True)
class Kept:
    """A value that an earlier piece of the same program made, or saw.

    Attributes:
        number: Tells it apart.
        copied: Whether it is kept as a copy, since the model writes into its memory.
    """

    number: int
    copied: bool = False


Source = Slot | Border | Operand | Kept
"""Where a piece of code takes a value from."""

Target = Slot | Border | Operand | Kept
"""Where it puts one: a slot is handed on, or, for a weight, read in the weight's place."""


@dataclass(frozen=True)
class Piece:
    """A piece of code.

    Attributes:
        run: Takes the sources' values, and returns a tuple of the targets'.
        sources: Where its values come from.
        targets: Where its results go.
        fixed: Options that an operation is given besides.
    """

    run: Callable[..., tuple[Any, ...]]
    sources: tuple[Source, ...]
    targets: tuple[Target, ...]
    fixed: tuple[tuple[Operand, Any], ...] = ()


@dataclass(frozen=True)
class AtOperation:
    """What is done at one operation of a module.

    Attributes:
        number: How many operations the module asked for before.
        before: What changes its operands.
        given: Operands that are kept for later.
        seen: Its result, kept for later.
    """

    number: int
    before: Piece | None = None
    given: tuple[tuple[Operand, Kept], ...] = ()
    seen: Kept | None = None


@dataclass(frozen=True)
class Program:
    """What runs around one call of a module.

    Attributes:
        before: Before the module's own forward.
        operations: At operations of it.
        after: Behind it.
        kept: Arguments that are needed behind it.
        asked: Names of the operations that the module asks for, up to the last that matters.
        opened: Modules whose operations count: the module, and those inside of it in which
            something is done.
    """

    before: Piece | None = None
    operations: tuple[AtOperation, ...] = ()
    after: Piece | None = None
    kept: tuple[tuple[Border, Kept], ...] = ()
    asked: tuple[str, ...] = ()
    opened: frozenset[str] = frozenset()

    @property
    def slots(self) -> list[Slot]:
        """All that it takes from outside."""
        pieces = [self.before, *(at.before for at in self.operations), self.after]
        found = (s for p in pieces if p for s in p.sources if isinstance(s, Slot))
        return list(dict.fromkeys(found))

    @property
    def weights(self) -> list[Slot]:
        """Weights in whose place others are read."""
        targets = self.before.targets if self.before else ()
        return [t for t in targets if isinstance(t, Slot) and t.kind == "weight"]

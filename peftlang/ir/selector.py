"""Selectors: which sites a method is placed on."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A model that cannot change and refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class LayerRange(Frozen):
    """``in layers[first..last]``, both ends included; negative counts from the end.

    ``None`` leaves an end open: ``layers[-4..]`` is the last four.
    """

    first: int | None = None
    last: int | None = None

    def contains(self, layer: int, layers: int) -> bool:
        first = 0 if self.first is None else self.first + (layers if self.first < 0 else 0)
        last = layers - 1 if self.last is None else self.last + (layers if self.last < 0 else 0)
        return first <= layer <= last

    def __str__(self) -> str:
        if self.first is not None and self.first == self.last:
            return str(self.first)
        ends = ["" if end is None else str(end) for end in (self.first, self.last)]
        return f"{ends[0]}..{ends[1]}"


class Comparison(Frozen):
    """``where d_h >= 1024``: a site's size against a number; several are joined by `and`."""

    dim: str
    operator: Literal["<", "<=", ">", ">=", "==", "!="]
    value: int

    def __str__(self) -> str:
        return f"{self.dim} {self.operator} {self.value}"


class Target(Frozen):
    """One alternative of a selector: a role or a glob of module paths, narrowed by scopes.

    Attributes:
        kind: ``role`` (``attn.q``), ``glob`` (``"model.layers.*.mlp"``), or ``parameter``
            (``norm.weight`` after ``train``).
        text: The role's name or the glob.
        layers: Ranges of layers; empty for all.
        sides: Names after ``in`` that are no layers: ``encoder``, ``decoder``, a tower's name.
        where: Comparisons, all of which hold.
        span: Offsets in the spec.
    """

    kind: Literal["role", "glob", "parameter"]
    text: str
    layers: tuple[LayerRange, ...] = ()
    sides: tuple[str, ...] = ()
    where: tuple[tuple[Comparison, ...], ...] = ()
    span: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The role or pattern as it is written."""
        return f'"{self.text}"' if self.kind == "glob" else self.text

    @property
    def scopes(self) -> str:
        """Its scopes as they are written; empty for none."""
        scopes = [f"in {side}" for side in self.sides]
        if self.layers:
            scopes.insert(0, f"in layers[{', '.join(map(str, self.layers))}]")
        if self.where:
            anyof = (" and ".join(map(str, alternative)) for alternative in self.where)
            scopes.append("where " + " or ".join(anyof))
        return " ".join(scopes)

    def __str__(self) -> str:
        return f"{self.name} {self.scopes}".rstrip()


class Selector(Frozen):
    """Alternatives, less exceptions.

    Attributes:
        targets: What is selected; a site is selected once however many match it.
        exceptions: What ``except`` takes away.
    """

    targets: tuple[Target, ...]
    exceptions: tuple[Target, ...] = ()

    def __str__(self) -> str:
        text = _listed(self.targets)
        if self.exceptions:
            taken = _listed(self.exceptions)
            several = len(self.exceptions) > 1 or " " in taken
            text += f" except ({taken})" if several else f" except {taken}"
        return text


def _listed(targets: tuple[Target, ...]) -> str:
    """Scopes that all share come last; others are in parentheses with what they narrow."""
    scopes = {target.scopes for target in targets}
    if len(scopes) == 1:
        return f"{', '.join(target.name for target in targets)} {scopes.pop()}".rstrip()
    return ", ".join(f"({target})" if target.scopes else target.name for target in targets)

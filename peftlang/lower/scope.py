"""Scope: what each name stands for at a site, the method's own names and the site's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.dims import Dim
from peftlang.ir.expr import DimValue, Expr, Hyper, Number, Ref
from peftlang.ir.positions import (
    ACTIVATION,
    BLOCK,
    CORE,
    EMBED,
    NORM,
    POSITIONS,
    PROJECTION,
    PROMPT,
    SITE_DIMS,
    SUBLAYER,
)
from peftlang.ir.positions import Scope as SiteValues
from peftlang.ir.selector import Selector
from peftlang.ir.types import Level, Type
from peftlang.lower.declare import Declarations
from peftlang.lower.report import Fault, Faults, Place
from peftlang.lower.walk import offsets
from peftlang.syntax import nodes as n

SITE_VALUES = frozenset(name for values in POSITIONS.values() for name in values)
"""Every name that some position has."""

KINDS = (PROJECTION, SUBLAYER, CORE, NORM, EMBED, ACTIVATION, PROMPT, BLOCK)
"""Every kind of site, the likeliest first."""


@dataclass(frozen=True)
class SiteKind:
    """A kind of site that a method is checked against.

    Attributes:
        position: A position of that kind, for messages.
        values: The names that it has, and their types.
        targets: What a composition may write there.
        certain: False where the kind was guessed from the names that the method reads.
    """

    position: str
    values: SiteValues
    targets: frozenset[str]
    certain: bool = True


def kinds_of(selector: Selector, *, sequential: bool) -> list[SiteKind]:
    """One kind of site for each that the selector's roles are of, in the order written.

    Empty when it has globs alone: modules are of any kind.
    """
    found: dict[int, SiteKind] = {}
    for target in selector.targets:
        values = POSITIONS.get(target.text) if target.kind == "role" else None
        if values is not None and id(values) not in found:
            found[id(values)] = _kind(target.text, values, sequential=sequential)
    return list(found.values())


def kinds_with(names: Iterable[str], targets: Iterable[str], *, sequential: bool) -> list[SiteKind]:
    """The kinds of site that have all these names and targets, the likeliest first.

    When none has them all, the one that lacks the fewest.
    """
    read, written = set(names), set(targets)
    every = [
        _kind(_example(values), values, sequential=sequential, certain=False) for values in KINDS
    ]

    def lacking(kind: SiteKind) -> int:
        return len(read - set(kind.values)) + len(written - kind.targets)

    return [kind for kind in every if not lacking(kind)] or [min(every, key=lacking)]


def _kind(position: str, values: SiteValues, *, sequential: bool, certain: bool = True) -> SiteKind:
    targets = {"h", "W", "b", "q", "k", "v"} & set(values)
    if values in (PROJECTION, BLOCK) and not sequential:
        targets.add("x")
    if sequential and values in (ACTIVATION, EMBED):
        values = {**values, "x": Type((Dim.of("d_x"),), Level.TOKEN)}
    return SiteKind(f"`{position}`", values, frozenset(targets), certain)


def _example(values: SiteValues) -> str:
    return next(role for role, found in POSITIONS.items() if found is values)


def _positions_with(name: str) -> str:
    having = [role for role, values in POSITIONS.items() if name in values]
    return ", ".join(having[:6]) + (", …" if len(having) > 6 else "")


class Scope:
    """What the names of a method stand for at one kind of site.

    The method's own names come first, then the site's, then, in a clause after ``with``, the
    adapter's hyper-parameters, then dimensions.

    Args:
        declared: The method.
        site: The kind of site.
        insertion: ``parallel`` or ``sequential``.
        tapped: Dimensions that taps name first; True for the length of a sequence.

    Attributes:
        tensors: Types of parameters, buffers, inputs, taps and carried states, as far as they
            have been lowered; None after an error.
        lets: Values of lets and of the function; None after an error.
        places: Where expressions were written.
    """

    def __init__(
        self,
        declared: Declarations,
        site: SiteKind,
        insertion: str,
        tapped: Mapping[str, bool],
    ) -> None:
        self.declared, self.site, self.insertion = declared, site, insertion
        self.tensors: dict[str, Type | None] = {}
        self.lets: dict[str, Expr | None] = {}
        self._places: dict[int, tuple[Expr, Place]] = {}
        self.sizes = {**declared.sizes, **{name: Dim.of(name) for name in tapped}}
        self.sequences = frozenset(name for name, sequence in tapped.items() if sequence)

    def keep(self, expr: Expr, place: Place) -> Expr:
        """Remember where an expression was first written."""
        self._places.setdefault(id(expr), (expr, place))
        return expr

    def place(self, expr: Expr) -> Place | None:
        """Where an expression was written."""
        found = self._places.get(id(expr))
        return found[1] if found else None

    def value(self, node: n.Name, source: Source) -> Expr:
        """What a name stands for in a value.

        Raises:
            Faults: M313, N102, S403, T211: it is nothing, or nothing that has a value.
        """
        name = node.text
        if name in self.declared.names:
            found = self._own(node)
        elif name in self.site.values:
            found = self._of_site(node)
        elif name in self._outer_kinds and not self._inside(node, source):
            found = self._outer(node)
        elif name in SITE_DIMS:
            found = DimValue(Dim.of(name), Type(kind="int"), offsets(node))
        else:
            raise self._unknown(node)
        return self.keep(found, Place(source, node.span))

    def at_start(self, node: n.Name, source: Source) -> Expr:
        """What a name stands for before the model runs: in an initial value, or a rate.

        Raises:
            Faults: M315, it is not there yet; and as `value`.
        """
        name, names = node.text, self.declared.names
        if name in names and name not in self.declared.kinds:
            type_, what = self.tensors.get(name), names[name].what
            if type_ is not None and type_.level is Level.CONST:
                return self.value(node, source)
            kept = what in ("a parameter", "a buffer")
            why = "is declared after it" if kept else f"is {what} of the method"
        else:
            site = self.site.values.get(name) if name not in names else None
            if site is None or site.level is Level.CONST:
                return self.value(node, source)
            why = "differs from token to token"
        advice = "it may read `W`, `b`, dimensions, hyper-parameters, and tensors declared before"
        message = f"an initial value cannot read `{name}`, which {why}"
        raise Fault("M315", message, node, help=advice)

    def _own(self, node: n.Name) -> Expr:
        name = node.text
        if name in self.declared.twice:
            raise Faults
        if name in self.declared.kinds:
            return _hyper(node, self.declared.kinds[name])
        type_ = self.tensors.get(name)
        found = self.lets.get(name) if type_ is None else Ref(name, type_, offsets(node))
        if found is None:
            raise Faults  # What is wrong with its declaration has been said.
        return found

    @property
    def _outer_kinds(self) -> Mapping[str, str]:
        adapter = self.declared.use.adapter
        return adapter.kinds if adapter else {}

    def _inside(self, node: n.Node, source: Source) -> bool:
        """Whether a node is the method's own text, not that of a use of it."""
        return self.declared.use.method.holds(source, node.span)

    def _outer(self, node: n.Name) -> Expr:
        value, kind = self.declared.use.outer.get(node.text), self._outer_kinds[node.text]
        if value is None or kind in ("fn", "str"):
            return _hyper(node, kind)
        number: Literal["int", "float"] = "int" if kind == "int" else "float"
        return Number(value, Type(kind=number), offsets(node))

    def _of_site(self, node: n.Name) -> Expr:
        type_ = self.site.values[node.text]
        if self.insertion == "sequential" and node.text == "W" and Dim.of("d_x") in type_.dims:
            message = (
                "`W` is read with sequential insertion, where `d_x` is the size of the output, so "
                "that nothing names its columns"
            )
            raise Fault("M313", message, node, help="use `insertion parallel`")
        return Ref(node.text, type_, offsets(node))

    def _unknown(self, node: n.Name) -> Fault:
        name, site = node.text, self.site
        if name not in SITE_VALUES:
            known = {*self.declared.names, *site.values, *SITE_DIMS}
            message = f"`{name}` is not known here"
            return Fault("N102", message, node, help=did_you_mean(name, known))
        start = f"a site at {site.position}"
        if not site.certain:
            start = f"no position has all that this method reads: one like {site.position}"
        advice = f"these have it: {_positions_with(name)}"
        if name == "x":
            advice = f"use `h`, or a position that reads something: {_positions_with(name)}"
        return Fault("S403", f"{start} has no `{name}`", node, help=advice)


def _hyper(node: n.Name, kind: str) -> Expr:
    if kind in ("fn", "str"):
        what = "a function: call it" if kind == "fn" else "a text, which has no value here"
        raise Fault("T211", f"`{node.text}` is {what}", node)
    if kind == "int":
        return DimValue(Dim.of(node.text), Type(kind="int"), offsets(node))
    return Hyper(node.text, Type(kind="bool" if kind == "bool" else "float"), offsets(node))

"""What is verified: a spec with what the caller fixed, built for any values of the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from peftlang.diagnostics import PeftError
from peftlang.ir.expr import Scalar
from peftlang.ir.method import Adapter, HyperParameter, Use
from peftlang.ir.positions import POSITIONS
from peftlang.ir.selector import Target
from peftlang.lower import Spec, build, load

INTEGERS: tuple[int, ...] = (1, 2, 3, 4)
FLOATS: tuple[float, ...] = (1.0, 0.5, 2.0)
FUNCTIONS: tuple[str, ...] = ("tanh", "relu")


@dataclass(frozen=True, eq=False, repr=False)
class Subject:
    """A spec, which of its entries, and what the caller says about it.

    Attributes:
        spec: A path, a library name, or spec text.
        entry: Which adapter or method; None where there is one.
        args: Hyper-parameters that stay as they are; the others vary.
        at: A selector in place of the position.
        overrides: Clauses in place of the spec's.
    """

    spec: str | Path
    entry: str | None = None
    args: Mapping[str, Scalar] = field(default_factory=dict)
    at: str | None = None
    overrides: Sequence[str] = ()
    _others: dict[str, "Subject"] = field(default_factory=dict)
    _built: dict[tuple[Any, ...], Adapter | PeftError] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<subject {self.spec}>"

    @cached_property
    def loaded(self) -> Spec:
        return load(self.spec)

    @property
    def name(self) -> str:
        return self.default.name

    @cached_property
    def default(self) -> Adapter:
        """The adapter with every default.

        Raises:
            PeftError: the spec, or what is said about it, is wrong.
        """
        return self.build(dict(self.args))

    def build(self, args: Mapping[str, Scalar]) -> Adapter:
        """The adapter with these arguments.

        Raises:
            PeftError: they do not fit the spec.
        """
        key = tuple(sorted((name, type(value).__name__, value) for name, value in args.items()))
        if key not in self._built:
            try:
                self._built[key] = build(
                    self.loaded, self.entry, dict(args), self.at, self.overrides
                )
            except PeftError as error:
                self._built[key] = error
        found = self._built[key]
        if isinstance(found, PeftError):
            raise found
        return found

    def other(self, method: str, adapter: Adapter) -> "Subject":
        """The method that a contract names, from this spec or from what it imports."""
        if method not in self._others:
            known = method in self.loaded.unit.names
            self._others[method] = Subject(self.spec if known else adapter.source, method)
        return self._others[method]

    @cached_property
    def choices(self) -> dict[str, tuple[Scalar, ...]]:
        """Values to try of each hyper-parameter that the caller left free, the simplest first."""
        entry = self.loaded.main(self.entry)
        free = [h for h in entry.hypers if h.name not in self.args]
        return {h.name: self._accepted(h) for h in free}

    def _accepted(self, hyper: HyperParameter) -> tuple[Scalar, ...]:
        return tuple(v for v in _candidates(hyper) if self._fits(hyper.name, v)) or (
            () if hyper.default is None else (hyper.default,)
        )

    def _fits(self, name: str, value: Scalar) -> bool:
        try:
            self.build({**self.args, name: value})
        except PeftError as error:
            # A size that only together with another value fits is tried together with it.
            return error.code == "T206"
        return True


def _candidates(hyper: HyperParameter) -> tuple[Scalar, ...]:
    default = hyper.default
    found: list[Scalar] = []
    if hyper.kind == "int":
        return INTEGERS
    if hyper.kind == "bool":
        return (False, True)
    if default is not None:
        found.append(default)
    if hyper.kind == "float":
        found += [value for value in FLOATS if value != default]
    elif hyper.kind == "fn":
        found += [value for value in FUNCTIONS if value != default]
    return tuple(found)


def role_of(target: Target) -> str:
    """The role that an alternative of a selector names; a path stands for any projection."""
    return target.text if target.kind == "role" else "linear"


def roles_of(use: Use) -> tuple[str, ...]:
    """The roles that a use may be placed on."""
    named = map(role_of, use.selector.targets)
    return tuple(dict.fromkeys(name for name in named if name in POSITIONS))

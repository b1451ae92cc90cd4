"""A spec with everything that a command line says about it."""

from dataclasses import dataclass, field
from pathlib import Path

from peftlang.cli.options import Value
from peftlang.ir.method import Adapter


@dataclass(frozen=True, slots=True)
class Request:
    """A spec, and what the options replace in it.

    Args:
        spec: A .peft file, or the name of a method of the library.
        entry: Which adapter or method of the spec.
        args: Hyper-parameters.
        at: A selector, or None for the spec's own positions.
        overrides: Clauses that replace the spec's.
    """

    spec: str
    entry: str | None = None
    args: dict[str, Value] = field(default_factory=dict)
    at: str | None = None
    overrides: tuple[str, ...] = ()

    @property
    def source(self) -> str | Path:
        """What `peftlang.lower.load` takes: a path where the text looks like one."""
        return Path(self.spec) if self.spec.endswith(".peft") or "/" in self.spec else self.spec

    def build(self) -> Adapter:
        """The adapter that is asked for.

        Raises:
            PeftError: the spec, or what is said about it, is wrong.
        """
        from peftlang.lower import build, load

        return build(load(self.source), self.entry, self.args, self.at, self.overrides)

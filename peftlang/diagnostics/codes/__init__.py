"""The one table of codes, one file for each family.

| family | file | about |
|---|---|---|
| P0xx | syntax.py | characters, tokens, grammar |
| N1xx | names.py | names and imports |
| T2xx | types.py | types, dimensions, shapes |
| M3xx | methods.py | the clauses of a method or adapter |
| S4xx | sites.py | selectors, roles, sites |
| R5xx | runtime.py | an adapted model while it runs |
| D6xx | disk.py | saving and loading |
| C7xx | command.py | the command line and the choice of a model |
| V8xx | verifying.py | references and contracts |
| I9xx | interop.py | adapters of other libraries |
"""

from peftlang.diagnostics.codes.command import COMMAND
from peftlang.diagnostics.codes.disk import DISK
from peftlang.diagnostics.codes.entry import Code
from peftlang.diagnostics.codes.interop import INTEROP
from peftlang.diagnostics.codes.methods import METHODS
from peftlang.diagnostics.codes.names import NAMES
from peftlang.diagnostics.codes.runtime import RUNTIME
from peftlang.diagnostics.codes.sites import SITES
from peftlang.diagnostics.codes.syntax import SYNTAX
from peftlang.diagnostics.codes.types import TYPES
from peftlang.diagnostics.codes.verifying import VERIFYING

__all__ = ["CODES", "FAMILIES", "Code", "explain"]

FAMILIES: tuple[tuple[Code, ...], ...] = (
    SYNTAX,
    NAMES,
    TYPES,
    METHODS,
    SITES,
    RUNTIME,
    DISK,
    COMMAND,
    VERIFYING,
    INTEROP,
)

CODES: dict[str, Code] = {entry.code: entry for family in FAMILIES for entry in family}


def explain(code: str) -> str:
    """The entry of a code as a page of text. Raises KeyError for a code that does not exist."""
    entry = CODES[code]
    parts = [f"{entry.code}: {entry.title}", entry.explanation]
    parts.append("For example:\n\n" + _indented(entry.example))
    if entry.fixed is not None:
        parts.append("Mended:\n\n" + _indented(entry.fixed))
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    lines = text.strip("\n").split("\n")
    return "\n".join("    " + line if line else "" for line in lines)

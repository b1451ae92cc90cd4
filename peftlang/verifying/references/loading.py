"""Reading what `--against` names: a Python file, another spec, or another library's method."""

from collections.abc import Callable
from pathlib import Path

from peftlang.diagnostics import PeftError
from peftlang.verifying.references.hf_reference import hf_reference
from peftlang.verifying.references.python_reference import PythonReference
from peftlang.verifying.references.reference import Reference
from peftlang.verifying.references.spec_reference import SpecReference
from peftlang.verifying.subject import Subject

LIBRARIES: dict[str, Callable[[str], Reference]] = {"hf": hf_reference}
"""By the prefix of a reference (``hf`` in ``hf:lora``), what makes it of the name that follows."""


def load_reference(ref: str | Path) -> Reference:
    """Read a reference.

    Args:
        ref: A Python file, a spec (a .peft file or a library name), or ``prefix:name``.

    Raises:
        PeftError: V801, it cannot be read; V802, the file has no such function; V810, there is
            no such reference.
    """
    text = str(ref)
    prefix, colon, name = text.partition(":")
    if text.endswith(".py"):
        return PythonReference(Path(text))
    if colon and prefix.isidentifier() and "/" not in text and "\\" not in text:
        return _of_library(prefix, name)
    return SpecReference(Subject(ref))


def _of_library(prefix: str, name: str) -> Reference:
    if prefix not in LIBRARIES:
        known = ", ".join(f"`{p}:`" for p in LIBRARIES) or "none in this version"
        raise PeftError(
            f"`{prefix}:{name}` is no reference: libraries that can be one are {known}",
            code="V810",
            help="give a Python file, a .peft file, or the name of a library spec",
        )
    return LIBRARIES[prefix](name)

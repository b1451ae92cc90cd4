"""From text to typed methods: names, imports, shapes, clauses; no tensor library is loaded."""

from peftlang.lower.build import build, open_method
from peftlang.lower.report import SpecError
from peftlang.lower.spec import Entry, Spec, check, load
from peftlang.lower.units import library_names

__all__ = ["Entry", "Spec", "SpecError", "build", "check", "library_names", "load", "open_method"]

"""What is wrong, where, and the edit that mends it: spans, diagnostics, codes, rendering."""

from peftlang.diagnostics.codes import CODES, Code, explain
from peftlang.diagnostics.diagnostic import Diagnostic, Label, Severity
from peftlang.diagnostics.error import PeftError
from peftlang.diagnostics.nearest import did_you_mean, nearest
from peftlang.diagnostics.render import render
from peftlang.diagnostics.source import Source, Span

__all__ = [
    "CODES",
    "Code",
    "Diagnostic",
    "Label",
    "PeftError",
    "Severity",
    "Source",
    "Span",
    "did_you_mean",
    "explain",
    "nearest",
    "render",
]

"""Deciding what a spec promises, and holding it to a reference.

Everything runs at one site with real tensors, which takes milliseconds; a few whole models
confirm what a site cannot show.
"""

from peftlang.verifying.checks.equals_reference import Comparison, compare
from peftlang.verifying.references.loading import load_reference
from peftlang.verifying.references.reference import Reference
from peftlang.verifying.replay import replay
from peftlang.verifying.report import Report, Row
from peftlang.verifying.search import CounterExample, Difference
from peftlang.verifying.subject import Subject
from peftlang.verifying.verdict import verify

__all__ = [
    "Comparison",
    "CounterExample",
    "Difference",
    "Reference",
    "Report",
    "Row",
    "Subject",
    "compare",
    "load_reference",
    "replay",
    "verify",
]

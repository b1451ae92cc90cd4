"""Deciding what a spec promises, and holding it to a reference.

Everything runs at one site with real tensors, which takes milliseconds; a few whole models
confirm what a site cannot show.
"""

from peftlang.verifying.comparing import Comparison, compare
from peftlang.verifying.references import Reference, load_reference
from peftlang.verifying.report import Report, Row
from peftlang.verifying.running import CounterExample, Difference
from peftlang.verifying.subject import Subject
from peftlang.verifying.verify import replay, verify

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

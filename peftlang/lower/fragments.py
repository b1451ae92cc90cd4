"""Pieces of a spec given outside a file: a selector, a clause."""

import re
from typing import TypeVar

from peftlang.diagnostics import Diagnostic, Source, Span
from peftlang.lower.clauses import Placed
from peftlang.lower.report import Fragment, Place, Report
from peftlang.syntax import nodes as n
from peftlang.syntax import parse

_WORDS = ("function", "insertion", "composition", "sharing", "penalty", "rate")
_ASSIGNED = re.compile(rf"\s*({'|'.join(_WORDS)})\s*=\s*(?=\S)")
_END = "\n}\n"

N = TypeVar("N", bound=n.Node)


def selector(text: str, report: Report) -> Placed[n.Selector] | None:
    """Read a selector, such as ``attn.q in layers[-4..]``; reports what is wrong with it."""
    source = _framed("at", "adapter a {\n    m() at\n", text)
    use = _use(source, report)
    if use is None or use.at is None or use.overrides:
        if not report.failed:
            report.error("P003", "a selector is wanted here", _whole(source))
        return None
    return Placed(use.at, source)


def clauses(text: str, report: Report) -> list[Placed[n.Clause]]:
    """Read clauses, such as ``insertion sequential``, also written ``insertion=sequential``."""
    found = _ASSIGNED.match(text)
    if found:
        text = f"{found[1]} {text[found.end() :]}"
    source = _framed("with", "adapter a {\n    m() with\n", text)
    use = _use(source, report)
    if use is None or use.at is not None or not use.overrides:
        if not report.failed:
            report.error("P003", "a clause is wanted here", _whole(source),
                         help=f"one of {', '.join(_WORDS)}")  # fmt: skip
        return []
    return [Placed(clause, source) for clause in use.overrides]


def _framed(name: str, frame: str, text: str) -> Fragment:
    return Fragment(f"<{name}>", frame + text + _END, None, Source(f"<{name}>", text), len(frame))


def _whole(source: Fragment) -> Place:
    return Place(source, Span(source.offset, source.offset + len(source.shown.text)))


def _use(source: Fragment, report: Report) -> n.Use | None:
    """The one use that the frame holds; None when the text broke out of the frame."""
    tree, diagnostics = parse(source)
    for diagnostic in diagnostics:
        report.add(_of_fragment(diagnostic, source))
    items = tree.items
    if len(items) != 1 or not isinstance(items[0], n.Adapter):
        return None
    uses = items[0].clauses
    only = uses[0] if len(uses) == 1 else None
    return only if isinstance(only, n.Use) else None


def _of_fragment(diagnostic: Diagnostic, source: Fragment) -> Diagnostic:
    """The parser keeps the source it was given, which may be an equal copy."""
    from dataclasses import replace

    return replace(diagnostic, source=source)

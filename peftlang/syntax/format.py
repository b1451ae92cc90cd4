"""The formatter: one layout for every text that means the same.

The words of a method's clauses stand in one column and what they say in the next; `~` is
aligned in runs of tensors; single blank lines and all comments stay where they were. A clause
with a comment inside keeps its own line breaks.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftlang.diagnostics import PeftError, Source, Span
from peftlang.syntax import nodes as n
from peftlang.syntax.format_clauses import INDENT, AnyClause, clause_lines
from peftlang.syntax.format_expressions import ONE_LINE, WIDTH, expression
from peftlang.syntax.parse import parse

_NO_CODE = re.compile(r'"[^"\n]*"|#.*')


def format_text(text: str, name: str = "<text>") -> str:
    """A text in the canonical layout. Raises PeftError (P0xx) when it does not parse."""
    return format_source(Source(name, text))


def format_source(source: Source) -> str:
    """As `format_text`, for a source whose name diagnostics shall give."""
    file, diagnostics = parse(source)
    if any(diagnostic.severity == "error" for diagnostic in diagnostics):
        raise PeftError.of(diagnostics)
    return format_file(file)


def format_file(file: n.File) -> str:
    """A parsed file in the canonical layout.

    Comments and blank lines are those of `file.source`; a tree that was made otherwise has
    none. The text parses to an equal tree, and formatting it again changes nothing.
    """
    return _Printer(file).text()


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something that stands on lines of its own: a clause, an item, or a comment."""

    node: n.Node
    span: Span
    trailing: str = ""
    blank_before: bool = False


class _Text:
    """The source of a tree: its comments and blank lines, by place."""

    def __init__(self, file: n.File) -> None:
        self.text = file.source.text if file.source else ""
        self._comments = file.comments if file.source else ()
        self._starts = [comment.span.start for comment in self._comments]
        self._ends = dict(zip(self._starts, (c.span.end for c in self._comments), strict=True))

    def comments(self, start: int, end: int) -> Sequence[n.Comment]:
        """The comments that begin in an interval."""
        return self._comments[bisect_left(self._starts, start) : bisect_left(self._starts, end)]

    def find(self, sign: str, start: int, end: int) -> int:
        """The first place of a sign outside comments, or `end`; `end` where there is no text."""
        at = start if self.text else end
        while at < end and self.text[at] != sign:
            at = self._ends.get(at, at + 1)
        return min(at, end)

    def beside(self, at: int) -> n.Comment | None:
        """A comment that follows on the same line, with nothing between."""
        first = bisect_left(self._starts, at)
        if first == len(self._starts):
            return None
        between = self.text[at : min(self._starts[first], at + WIDTH * 10)]
        return None if between.strip() or "\n" in between else self._comments[first]

    def entries(self, nodes: Sequence[tuple[n.Node, Span]], start: int, end: int) -> list[_Entry]:
        """Nodes and the comments between them, in order; one beside a node trails it."""
        entries: list[_Entry] = []
        for node, span in nodes:
            for comment in self.comments(start, span.start):
                self._add_comment(entries, comment)
            self._add(entries, node, span)
            start = span.end
        for comment in self.comments(start, end):
            self._add_comment(entries, comment)
        return entries

    def _add(self, entries: list[_Entry], node: n.Node, span: Span) -> None:
        blank = bool(entries) and self.text.count("\n", entries[-1].span.end, span.start) > 1
        entries.append(_Entry(node, span, blank_before=blank))

    def _add_comment(self, entries: list[_Entry], comment: n.Comment) -> None:
        last = entries[-1] if entries else None
        if last is None or "\n" in self.text[last.span.end : comment.span.start]:
            self._add(entries, comment, comment.span)
        else:
            span = last.span.to(comment.span)
            entries[-1] = _Entry(last.node, span, f"  {comment.text}", last.blank_before)


class _Printer:
    def __init__(self, file: n.File) -> None:
        self._file = file
        self._text = _Text(file)

    def text(self) -> str:
        nodes: list[tuple[n.Node, Span]] = [(item, _extent(item)) for item in self._file.items]
        if self._file.docstring:
            nodes.insert(0, (self._file.docstring, self._file.docstring.span))
        entries = self._text.entries(nodes, 0, len(self._text.text))
        out: list[str] = []
        for number, entry in enumerate(entries):
            if number and (entry.blank_before or _apart(entries[number - 1].node, entry.node)):
                out.append("")
            out.append(self._top(entry.node) + entry.trailing)
        return "\n".join(out) + "\n" if out else ""

    def _top(self, node: n.Node) -> str:
        match node:
            case n.Comment():
                return node.text
            case n.Docstring():
                return _docstring(node)
            case n.Import():
                inner = self._text.comments(node.span.start, node.span.end)
                return "".join(f"{comment.text}\n" for comment in inner) + _import(node)
            case n.Method() | n.Adapter():
                return self._item(node)
            case _:
                raise TypeError(type(node).__name__)

    # --- methods and adapters ---

    def _item(self, item: n.Method | n.Adapter) -> str:
        text, end = self._text, item.span.end
        name, last = item.name.span.end, item.name.span.end
        out = [_docstring(item.docstring)] if item.docstring else []
        start, opened, closed = item.span.start, name, name
        if item.docstring:
            start = item.docstring.span.end
        if item.parameters:
            last = item.parameters[-1].span.end
            opened = text.find("(", name, end)
            closed = text.find(")", last, end)
        brace = text.find("{", closed, end)
        # Comments in the middle of the head have no line of their own to stay on.
        head = opened if item.parameters else name
        out += [comment.text for comment in text.comments(start, head)]
        out += self._header(item, opened, closed)
        body = [" " * INDENT + comment.text for comment in text.comments(max(closed, head), brace)]
        beside = text.beside(brace + 1)
        if beside is not None:
            out[-1] += f"  {beside.text}"
        body += self._body(item, beside.span.end if beside else brace, end)
        return "\n".join([*out, *body, "}"])

    def _header(self, item: n.Method | n.Adapter, opened: int, closed: int) -> list[str]:
        """The lines of the head, brace included."""
        start = f"{type(item).__name__.lower()} {item.name.text}"
        if not item.parameters:
            return [f"{start} {{"]
        flat = f"{start}({', '.join(_parameter(one) for one in item.parameters)}) {{"
        if not self._text.comments(opened, closed) and len(flat) <= WIDTH:
            return [flat]
        lines = [f"{start}("]
        nodes = [(one, one.span) for one in item.parameters]
        for entry in self._text.entries(nodes, opened, closed):
            inner = self._text.comments(entry.node.span.start + 1, entry.node.span.end)
            lines += [" " * INDENT + comment.text for comment in inner]
            if isinstance(entry.node, n.HyperParameter):
                lines.append(" " * INDENT + _parameter(entry.node) + "," + entry.trailing)
            elif isinstance(entry.node, n.Comment):
                lines.append(" " * INDENT + entry.node.text)
        return [*lines, ") {"]

    def _body(self, item: n.Method | n.Adapter, start: int, end: int) -> list[str]:
        lines: list[str] = []
        run: list[_Entry] = []
        clauses: list[tuple[n.Node, Span]] = [(one, one.span) for one in item.clauses]
        for number, entry in enumerate(self._text.entries(clauses, start, end)):
            span = entry.node.span
            comment = isinstance(entry.node, n.Comment)
            broken = not comment and bool(self._text.comments(span.start, span.end))
            if entry.blank_before or comment or broken:
                lines.extend(_run(run))
                run = []
            if number and entry.blank_before:
                lines.append("")
            if isinstance(entry.node, n.Comment):
                lines.append(" " * INDENT + entry.node.text)
            elif broken:
                lines.append(self._verbatim(entry.node) + entry.trailing)
            else:
                run.append(entry)
        return [*lines, *_run(run)]

    def _verbatim(self, node: n.Node) -> str:
        """A clause with a comment inside: its own lines, indented by its brackets."""
        depth = 0
        out: list[str] = []
        for line in self._text.text[node.span.start : node.span.end].split("\n"):
            code = _NO_CODE.sub("", line.strip())
            closing = len(code) - len(code.lstrip(")]"))
            level = 2 * INDENT + INDENT * max(depth - closing, 0) if out else INDENT
            if line.strip():
                out.append(" " * level + line.strip())
            depth += sum(code.count(sign) for sign in "([") - sum(code.count(s) for s in ")]")
        return "\n".join(out)


def _run(entries: Sequence[_Entry]) -> Iterable[str]:
    clauses: list[AnyClause] = [entry.node for entry in entries]  # type: ignore[misc]
    texts = clause_lines(clauses)
    return [text + entry.trailing for text, entry in zip(texts, entries, strict=True)]


def _extent(item: n.Item) -> Span:
    docstring = None if isinstance(item, n.Import) else item.docstring
    return docstring.span.to(item.span) if docstring else item.span


def _apart(before: n.Node, after: n.Node) -> bool:
    """Whether a blank line is always put between these two."""
    if isinstance(before, n.Comment):
        return False
    return not (isinstance(before, n.Import) and isinstance(after, n.Import | n.Comment))


def _docstring(node: n.Docstring) -> str:
    return f'"""{node.text}"""'


def _import(node: n.Import) -> str:
    source = f'"{node.source.value}"' if isinstance(node.source, n.String) else node.source.text
    names = (one.name.text + (f" as {one.alias.text}" if one.alias else "") for one in node.names)
    return f"from {source} import {', '.join(names)}"


def _parameter(node: n.HyperParameter) -> str:
    head = f"{node.name.text}: {node.type.text}"
    if node.default is None:
        return head
    return f"{head} = {expression(node.default, column=ONE_LINE)}"

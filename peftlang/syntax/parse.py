"""Text to tree. After an error reading goes on at the next clause, so one run finds several."""

from dataclasses import replace

from peftlang.diagnostics import Diagnostic, Source, Span
from peftlang.syntax import nodes as n
from peftlang.syntax.build import Build, Dropped
from peftlang.syntax.lexer import CLAUSES, Lexer, Token
from peftlang.syntax.messages import unexpected
from peftlang.syntax.tables import Machine, Rejected, Snapshot

# A page is 3,000 characters. The densest text of this size is read in about two seconds.
MAX_SIZE = 1 << 18
MAX_ERRORS = 50

# After one of these, what stands before is kept whatever comes next.
_WHOLE = frozenset({"LBRACE", "RBRACE", "DOCSTRING"})
_STARTS = (*CLAUSES.values(), "USE", "TRAIN", "METHOD", "ADAPTER", "FROM", "RBRACE", "$END")


def parse(source: Source) -> tuple[n.File, list[Diagnostic]]:
    """Read a whole file.

    Args:
        source: any text at all, up to `MAX_SIZE` characters.

    Returns:
        The file, and what is wrong with it, in the order of the text (P0xx). With errors the
        file holds the items and clauses that could be read. Nothing is raised.
    """
    if len(source.text) > MAX_SIZE:
        return n.File(Span(0, 0), (), source=source), [_too_large(source)]
    reading = _Reading(source)
    file = reading.run()
    return file, reading.diagnostics()


def parse_text(text: str, name: str = "<text>") -> tuple[n.File, list[Diagnostic]]:
    """`parse` for a text that is not a file."""
    return parse(Source(name, text))


def _too_large(source: Source) -> Diagnostic:
    return Diagnostic(
        "P006",
        f"this file is larger than {MAX_SIZE:,} characters",
        source,
        Span(0, 0),
        help="a spec is a page or two of text; is this the right file?",
    )


class _Reading:
    """One run of the machine over one text.

    `_safe` is the state before the clause that is being read: its mistakes cost that clause
    alone. `_lost` says that tokens are being skipped until a clause or item starts.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lexer = Lexer(source)
        self._build = Build(source)
        self._machine = Machine(self._build)
        self._errors: list[Diagnostic] = []
        self._safe: Snapshot = self._machine.save()
        self._lost = False
        self._clause: list[Token] = []

    def run(self) -> n.File:
        for token in self._lexer.tokens():
            self._take(token)
            if len(self._errors) >= MAX_ERRORS:
                break
        else:
            return self._file()
        self._machine.restore(self._safe)
        return self._file()

    def _file(self) -> n.File:
        file = self._finished()
        comments = tuple(
            n.Comment(span, self._source.slice(span).rstrip()) for span in self._lexer.comments
        )
        return replace(file, comments=comments)

    def _finished(self) -> n.File:
        try:
            result = self._machine.result
        except IndexError:
            result = None
        if isinstance(result, n.File):
            return result
        return self._ended_early()

    def _ended_early(self) -> n.File:
        """The text was left before its end, or its end was refused: close what is open."""
        end = len(self._source.text)
        for types in (("$END",), ("RBRACE", "$END")):
            saved = self._machine.save()
            try:
                for kind in types:
                    self._machine.feed(Token(kind, "", Span(end, end)))
            except (Rejected, Dropped):
                self._machine.restore(saved)
            else:
                file: n.File = self._machine.result
                return file
        return n.File(Span(0, end), (), source=self._source)

    def diagnostics(self) -> list[Diagnostic]:
        found = [*self._errors, *self._lexer.repairs, *self._build.diagnostics]
        unique: dict[tuple[str, Span], Diagnostic] = {}
        for diagnostic in found:
            span = diagnostic.span or Span(0, 0)
            # One token is one mistake; at a gap between tokens several things may be missing.
            code = diagnostic.code if span.start == span.end else ""
            unique.setdefault((code, span), diagnostic)
        return sorted(unique.values(), key=lambda d: d.span or Span(0, 0))[:MAX_ERRORS]

    # --- one token ---

    def _take(self, token: Token) -> None:
        if token.error is not None:
            self._errors.append(token.error)
            self._lose()
        elif token.starts:
            self._start(token)
        elif self._lost:
            self._after_header(token)
        else:
            self._clause.append(token)
            if not self._fed(token):
                self._refuse(token)
                self._lose()
            elif token.type in _WHOLE:
                self._safe = self._machine.save()

    def _lose(self) -> None:
        self._machine.restore(self._safe)
        self._lost = True

    def _fed(self, token: Token) -> bool:
        """Whether the machine took the token. A clause that was dropped counts as taken."""
        try:
            self._machine.feed(token)
        except Rejected:
            return False
        except Dropped:
            self._machine.restore(self._safe)
            return self._fed(token)
        return True

    def _start(self, token: Token) -> None:
        """A token with which a clause or an item starts, or one of them ends."""
        was_lost, self._lost = self._lost, False
        if self._lost_to_item(token, was_lost):
            self._lost = True
            return
        before = self._machine.save()
        if not self._fed(token):
            self._machine.restore(before)
            if was_lost and token.type == "RBRACE":
                self._lost = True
                return
            if self._whole():
                # What stands before is complete, so the token itself is the mistake.
                self._refuse(token)
                self._safe = before
                self._clause = [token]
                self._lost = True
                return
            self._refuse(token)
            self._machine.restore(self._safe)
            before = self._safe
            if not self._fed(token):
                self._lose()
                self._clause = [token]
                return
        self._safe = self._machine.save() if token.type in _WHOLE else before
        self._clause = [token]

    def _lost_to_item(self, token: Token, was_lost: bool) -> bool:
        """After an error between items, a word that starts nothing is not a second error."""
        return was_lost and token.type == "NAME" and self._machine.accepts("METHOD")

    def _whole(self) -> bool:
        return any(self._machine.accepts(kind) for kind in _STARTS)

    def _after_header(self, token: Token) -> None:
        """After a mistake in the head of a method, its clauses are read all the same."""
        if token.type != "LBRACE" or not self._clause:
            return
        head = self._clause[0]
        if head.type not in ("METHOD", "ADAPTER"):
            return
        name = next((t for t in self._clause[1:2] if t.type == "NAME"), None)
        invented = name or Token("NAME", "_", Span(head.span.end, head.span.end))
        if all(self._fed(one) for one in (head, invented, token)):
            self._safe = self._machine.save()
        self._clause = []
        self._machine.restore(self._safe)

    def _refuse(self, token: Token) -> None:
        self._errors.append(unexpected(self._source, token, self._clause, self._machine.accepts))

"""What is wrong with a text, before it is known which text it is."""

from dataclasses import dataclass

from peftlang.diagnostics import Diagnostic, Label, Source, Span


@dataclass(eq=False)
class Mistake(Exception):
    """One mistake; raised where no node can be made of what was read."""

    code: str
    message: str
    span: Span
    help: str | None = None
    labels: tuple[Label, ...] = ()

    def of(self, source: Source) -> Diagnostic:
        """The diagnostic, now that the text is known."""
        return Diagnostic(self.code, self.message, source, self.span, self.labels, self.help)

"""Where a diagnostic points: a text, and an interval of offsets in it."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A half-open interval of character offsets, `0 <= start <= end`."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not an interval: {self.start}..{self.end}")

    def to(self, other: "Span") -> "Span":
        """The smallest span that covers this one and `other`."""
        return Span(min(self.start, other.start), max(self.end, other.end))


@dataclass(frozen=True)
class Source:
    """A text and the name that diagnostics give it; lines are counted when asked for.

    `name` is what is printed (a path as the user wrote it, or `<text>`). `path` is the file
    that it came from, when there is one.
    """

    name: str
    text: str = field(repr=False)
    path: Path | None = None

    @classmethod
    def from_bytes(cls, name: str, data: bytes, path: Path | None = None) -> "Source":
        """Read UTF-8; nothing is raised.

        A byte that is not UTF-8 stays as a lone surrogate, so that the parser can point at it.
        """
        return cls(name, data.decode("utf-8", errors="surrogateescape"), path)

    @classmethod
    def from_file(cls, path: Path, limit: int = 1 << 20) -> "Source":
        """Read a file, never more than one byte past `limit` (in bytes).

        That is enough for the parser to say that the file is too large. Raises OSError as
        `open` does.
        """
        with path.open("rb") as file:
            return cls.from_bytes(str(path), file.read(limit + 1), path)

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both counted from 1; past the end is the end."""
        offset = max(0, min(offset, len(self.text)))
        start = self.text.rfind("\n", 0, offset) + 1
        return self.text.count("\n", 0, start) + 1, offset - start + 1

    def line_around(self, offset: int) -> Span:
        """The span of the line that holds an offset, without its line ending."""
        offset = max(0, min(offset, len(self.text)))
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", start)
        end = len(self.text) if end < 0 else end
        if end > start and self.text[end - 1] == "\r":
            end -= 1
        return Span(start, end)

    def slice(self, span: Span) -> str:
        """The text under a span."""
        return self.text[span.start : span.end]

"""Text to tree. After an error reading goes on at the next clause, so one run finds several."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from peftlang.diagnostics import Diagnostic, Source, Span, did_you_mean
from peftlang.syntax import nodes as n
from peftlang.syntax.build import place
from peftlang.syntax.mistake import Mistake
from peftlang.syntax.reader import Reader
from peftlang.syntax.tokens import MAX_ERRORS

# A page is 3,000 characters. The densest text of this size is read in a few seconds.
MAX_SIZE = 1 << 18


def parse(source: Source) -> tuple[n.File, list[Diagnostic]]:
    """Read a whole file.

    Args:
        source: any text at all, up to `MAX_SIZE` characters.

    Returns:
        The file, and what is wrong with it, in the order of the text (P0xx). With errors the
        file holds the items and clauses that could be read, and says what was lost. Nothing is
        raised.
    """
    if len(source.text) > MAX_SIZE:
        return n.File(Span(0, 0), (), source=source), [_too_large(source)]
    reader = Reader(source.text)
    file = _file(source, reader)
    found = [*reader.mistakes, *_types(file)]
    return file, [mistake.of(source) for mistake in _ordered(found)]


def parse_text(text: str, name: str = "<text>") -> tuple[n.File, list[Diagnostic]]:
    """`parse` for a text that is not a file."""
    return parse(Source(name, text))


def _too_large(source: Source) -> Diagnostic:
    said = f"this file is larger than {MAX_SIZE:,} characters"
    mend = "a spec is a page or two of text; is this the right file?"
    return Mistake("P006", said, Span(0, 0), mend).of(source)


def _ordered(found: Iterable[Mistake]) -> list[Mistake]:
    unique: dict[tuple[str, Span], Mistake] = {}
    for mistake in found:
        # One token is one mistake; at a gap between tokens several things may be missing.
        gap = mistake.span.start == mistake.span.end
        unique.setdefault((mistake.code if gap else "", mistake.span), mistake)
    return sorted(unique.values(), key=lambda mistake: mistake.span)[:MAX_ERRORS]


# --- the file ---


def _file(source: Source, reader: Reader) -> n.File:
    """The file with what is beside the tree; each loss is said of the item that it is in."""
    items: list[n.Item] = []
    lost = reader.lost
    for item in reader.file.items:
        within = tuple(one for one in lost if item.span.start <= one.span.start < item.span.end)
        lost = [one for one in lost if one not in within]
        items.append(item if isinstance(item, n.Import) else replace(item, lost=within))
    return replace(
        reader.file,
        span=Span(0, len(source.text)),
        items=tuple(items),
        lost=tuple(lost),
        comments=tuple(n.Comment(place(token), token.rstrip()) for token in reader.comments),
        source=source,
    )


def _types(file: n.File) -> Iterator[Mistake]:
    """Hyper-parameters of a type that does not exist."""
    for item in file.items:
        for parameter in () if isinstance(item, n.Import) else item.parameters:
            kind = parameter.type
            if kind.text not in n.TYPES:
                known = f"the types are {', '.join(n.TYPES)}"
                mend = did_you_mean(kind.text, n.TYPES) or known
                said = f"`{kind.text}` is not a type of hyper-parameter"
                yield Mistake("P016", said, kind.span, mend)

"""The shape of one entry in the table of codes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Code:
    """A stable name for one kind of mistake.

    Args:
        code: a letter for the family and three digits; never used again for another meaning.
        title: a few words, as in a table of contents.
        explanation: why this is an error and how it is mended, a short paragraph.
        example: where `runs` is true, a spec that `peftlang check` answers with exactly this
            code; otherwise the situation in words.
        fixed: the example, mended: a spec with no error. None where there is no such text.
        runs: whether `example` (and `fixed`) are specs that the tests put through the checker.
    """

    code: str
    title: str
    explanation: str
    example: str
    fixed: str | None = None
    runs: bool = True

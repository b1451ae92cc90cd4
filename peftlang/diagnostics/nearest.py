"""Did-you-mean."""

from collections.abc import Iterable
from difflib import get_close_matches

# difflib is quadratic in the lengths; a longer name is nobody's slip of the finger.
_LONGEST = 80


def nearest(name: str, candidates: Iterable[str], *, count: int = 1) -> list[str]:
    """The candidates that `name` was most likely meant to be, best first, at most `count`.

    Case is ignored for likeness. Empty when nothing is near. Ties go to the candidate that
    comes first in the alphabet, so the answer does not depend on the order given.
    """
    if len(name) > _LONGEST:
        return []
    folded: dict[str, str] = {}
    for candidate in sorted(candidates):
        if candidate != name and len(candidate) <= _LONGEST:
            folded.setdefault(candidate.lower(), candidate)
    close = get_close_matches(name.lower(), sorted(folded), n=count, cutoff=0.6)
    return [folded[match] for match in close]


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A help text ``did you mean `lora`?``, or None when nothing is near."""
    found = nearest(name, candidates)
    return f"did you mean `{found[0]}`?" if found else None

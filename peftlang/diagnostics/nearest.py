"""Did-you-mean."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

# difflib is quadratic in the lengths; a longer name is nobody's slip of the finger.
_LONGEST = 80
_TIES = 8


def nearest(name: str, candidates: Iterable[str], *, count: int = 1) -> list[str]:
    """The candidates that `name` was most likely meant to be, best first, at most `count`.

    Case is ignored for likeness. Empty when nothing is near. Of candidates that are as like, one
    of the same letters comes first, then the first in the alphabet, so that the answer does not
    depend on the order given.
    """
    if len(name) > _LONGEST:
        return []
    folded: dict[str, str] = {}
    for candidate in sorted(candidates):
        if candidate != name and len(candidate) <= _LONGEST:
            folded.setdefault(candidate.lower(), candidate)
    wanted = name.lower()
    close = get_close_matches(wanted, sorted(folded), n=count + _TIES, cutoff=0.6)

    def rank(match: str) -> tuple[float, bool, str]:
        likeness = SequenceMatcher(None, match, wanted).ratio()
        return -likeness, sorted(match) != sorted(wanted), match

    return [folded[match] for match in sorted(close, key=rank)[:count]]


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A help text ``did you mean `lora`?``, or None when nothing is near."""
    found = nearest(name, candidates)
    return f"did you mean `{found[0]}`?" if found else None

"""In which order lets and the function can be lowered, and circles among them."""

from collections.abc import Mapping, Sequence


def dependency_order(reads: Mapping[str, Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Names such that each comes after all that it reads, and the circles that prevent it.

    Args:
        reads: For each name, the names among them that it reads, each once.

    Returns:
        The order, without names that are on a circle or read one; and each circle found, its
        first name not repeated. Never recursive; linear in the size of ``reads``.
    """
    order: list[str] = []
    circles: list[list[str]] = []
    state: dict[str, bool | None] = {}  # None while open, then whether it can be lowered
    for start in reads:
        if start in state:
            continue
        path = [start]
        state[start] = None
        pending = [iter(reads[start])]
        sound = [True]
        while pending:
            name = next(pending[-1], None)
            if name is None:
                pending.pop()
                done, good = path.pop(), sound.pop()
                state[done] = good
                if good:
                    order.append(done)
                elif sound:
                    sound[-1] = False
            elif name not in state:
                state[name] = None
                path.append(name)
                pending.append(iter(reads[name]))
                sound.append(True)
            elif state[name] is None:
                circles.append(path[path.index(name) :])
                sound[-1] = False
            elif not state[name]:
                sound[-1] = False
    return order, circles

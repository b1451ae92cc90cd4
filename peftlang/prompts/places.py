"""The places before a sequence that soft tokens take: their ids, their slots, their rows."""

from typing import Any

import torch

from peftlang.emit.slots import Slot

FIRST_SOFT_ID = -1000
"""Id of the first soft token; those after it count down.

Below zero, so that no comparison with a real id (padding, end of sequence, the largest) is true of
it; and away from the few negative numbers that stand for something elsewhere.
"""


def ready_slot(side: str) -> Slot:
    """Slot of soft tokens that were made before the model runs, ``[batch or 1, n, d_h]``."""
    return Slot("value", f"soft.{side}")


def cached_slot(side: str) -> Slot:
    """Slot of the number of tokens that the cache of a call holds: ``[1]``, whole."""
    return Slot("cached", side)


def behind(sequence: Any, count: int) -> Any:
    """A sequence ``[batch, tokens, d]`` without its first tokens."""
    return sequence[:, count:] if count else sequence


def first(sequence: Any, count: int) -> Any:
    """The first tokens of a sequence."""
    return sequence[:, :count]


def fillers(sequence: Any, count: int) -> Any:
    """What stands where soft tokens come in later, and nothing sees it.

    Not zeros, at which norms that methods in the layers before may take have no gradient.
    """
    row = torch.linspace(-1, 1, sequence.shape[-1], dtype=sequence.dtype, device=sequence.device)
    return row.expand(sequence.shape[0], count, -1)


def put_before(front: Any, sequence: Any) -> Any:
    """One sequence behind another, whose rows may be the same for the whole batch."""
    if front.shape[1] == 0:
        return sequence
    if front.shape[0] != sequence.shape[0]:
        front = front.expand(sequence.shape[0], -1, -1)
    return torch.cat([front.to(sequence.dtype), sequence], dim=1)

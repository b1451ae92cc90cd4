"""What a site's sequence is in a graph: where its tokens lie, their ids, which are padding."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins.tensors import averages_batch
from peftlang.ir.expr import Apply, postorder
from peftlang.ir.method import Method
from peftlang.ir.plan import Site
from peftlang.ir.positions import POSITIONS
from peftlang.ir.reach import asking
from peftlang.ir.types import Level, Type
from peftlang.passes.entering import later_at

if TYPE_CHECKING:
    from peftlang.passes.views import SiteView

PLACES = "+tokens."
FROM_START, FROM_END, REAL, IDS = "first", "last", "real", "ids"
SOFT = "+soft."
"""Slots of what a call put before a sequence: ``+soft.SIDE``, one row for each soft token."""


def token_slot(side: str, what: str) -> str:
    """Slot of a fact about each token of the call, ``[batch, tokens]``.

    ``first`` and ``last`` are places counted from one end of the prompt; padding, virtual and
    generated tokens are further from either end than any number. ``real`` is false at padding,
    and ``ids`` are the tokens' ids, below zero for virtual ones.
    """
    return f"{PLACES}{side}.{what}"


def soft_slot(side: str) -> str:
    """Slot whose first size is how many soft tokens stand before the sequence."""
    return f"{SOFT}{side}"


def room_slot(side: str) -> str:
    """The same where the soft tokens are before the sequence in its layers alone."""
    return f"{SOFT}{side}.layers"


def sequence_of(site: Site) -> str:
    """Which of the model's sequences the tokens at a site are: a side, or ``model``."""
    if site.role in {"cross_attn.k", "cross_attn.v"}:
        return "encoder"
    return site.side or "model"


def reads_places(method: Method) -> bool:
    """Whether a method asks where tokens lie, or which they are; a mean leaves padding out."""
    averaged = any(penalty.type.level is Level.TOKEN for penalty in method.penalties)
    nodes = postorder(*method.penalties)
    averaged |= any(isinstance(node, Apply) and averages_batch(node) for node in nodes)
    return averaged or bool(asking(method))


class Sequence:
    """The sequence at one occurrence of a site, as the builtins ask for it.

    Where the call did not say what its tokens are (image patches, one layer by itself), all that
    is there is prompt, and none of it padding.

    Args:
        view: The occurrence, and where to write.
    """

    def __init__(self, view: "SiteView") -> None:
        self._view, self._side = view, sequence_of(view.occurrence.site)

    def token_mask(self, keywords: Mapping[str, Any]) -> Any:
        """1 for the first and the last tokens of the prompt, 0 for others: ``[batch, tokens]``."""
        first, last = int(keywords.get("first", 0)), int(keywords.get("last", 0))
        starts, ends = self._fact(FROM_START), self._fact(FROM_END)
        if starts is None or ends is None:
            ones = torch.ones_like(self._token(), dtype=torch.long)
            starts = ones.cumsum(-1) - 1 - sum(self._in_front())
            ends = ones.flip(-1).cumsum(-1).flip(-1) - 1
        chosen = ((starts >= 0) & (starts < first)) | (ends < last)
        return self._number(chosen)

    def identified(self, ids: tuple[Any, ...]) -> Any:
        """Which tokens have one of these ids and are no padding: booleans ``[batch, tokens]``.

        Raises:
            PeftError: R517, the call gives no ids.
        """
        held, real = self._fact(IDS, rows=True), self.real()
        if held is None or real is None:
            raise _no_ids(self._view.occurrence.site)
        found = held == int(ids[0])
        for one in ids[1:]:
            found = found | (held == int(one))
        return found & real

    def as_number(self, marks: Any) -> Any:
        """Booleans ``[batch, tokens, …]`` as 0 and 1, laid out as the site's tokens are."""
        return self.as_given(self._number(marks))

    def _number(self, marks: Any) -> Any:
        return marks.to(self._view.dtype("h") or torch.float32)

    def soft(self, count: int) -> Any:
        """1 in column k at the k-th soft token: ``[batch, tokens, count]``."""
        room, held = self._in_front()
        if count > held > 0:
            raise PeftError(
                f"`soft({count})` is read at {self._view.occurrence.site.id}, and only {held} soft "
                "tokens are put before the sequence",
                code="R518",
                help="let both have the same number",
            )
        place = torch.ones_like(self.by_row(self._token()), dtype=torch.long).cumsum(1) - 1 - room
        place = place if held else place - place - 1
        column = torch.ones_like(place.unsqueeze(-1).expand(-1, -1, count)).cumsum(-1) - 1
        return self.as_number(place.unsqueeze(-1) == column)

    def _in_front(self) -> tuple[int, int]:
        """With how much room still to be filled, and how many soft tokens the site's rows begin."""
        reads, site = self._view.reads, self._view.occurrence.site
        later = later_at(reads.active, site)
        slot = soft_slot(self._side)
        if slot in reads.given:
            return later, int(reads.value(slot).shape[0]) - later
        slot = room_slot(self._side)
        if slot in reads.given and site.layer is not None:
            return 0, int(reads.value(slot).shape[0]) - later
        return 0, 0

    def real(self) -> Any:
        """False at padding, ``[batch, tokens]``, and at room; None where every token is real."""
        found, (room, _) = self._fact(REAL, rows=True), self._in_front()
        if not room:
            return found
        filled = torch.ones_like(self.by_row(self._token()), dtype=torch.long).cumsum(1) > room
        return filled if found is None else found & filled

    def causal(self) -> bool:
        """Whether no token of the site's stack sees a later one; so where nothing tells."""
        return self._view.occurrence.site.sees in {"earlier", None}

    def average(self, value: Any, have: Type) -> Any:
        """The mean of a value over the real tokens of all rows, or over the rows.

        Args:
            value: ``[batch, tokens, *dims]``, or ``[batch, *dims]`` where ``have`` says so.
            have: Its type.
        """
        if have.level is Level.EXAMPLE:
            return value.mean(0)
        if not _is_flat(self._view):
            value = value.flatten(0, 1)
        real = self.real()
        if real is None:
            return value.mean(0)
        weight = real.flatten().to(value.dtype)
        for _ in have.dims:
            weight = weight.unsqueeze(-1)
        return (value * weight).sum(0) / weight.sum(0).clamp(min=1)

    def grid(self) -> tuple[int, int, int, int]:
        """Tokens before the patches, rows and columns of patches, tokens after them.

        Raises:
            PeftError: R519, the graph does not show an image's patches.
        """
        view = self._view
        tokens = view.reads.sizes.now(_shape(view)[1]) if len(_shape(view)) > 2 else -1
        if view.occurrence.product is not None:
            tokens = view.reads.sizes.now(view.node("h").meta["example_value"].shape[-2])
        for before, rows, columns, after in view.reads.grids:
            if before + rows * columns + after == tokens:
                return before, rows, columns, after
        raise PeftError(
            f"the graph does not show which tokens at {view.occurrence.site.id} are the patches "
            "of an image",
            code="R519",
            help="call the whole model, so that its patches are in the graph; `conv` works along "
            "any sequence",
        )

    def by_row(self, value: Any) -> Any:
        """A token-level value ``[batch, tokens, …]``, where the site has these as one dimension.

        Raises:
            PeftError: R516, the site's tokens are no sequence.
        """
        if not _is_flat(self._view):
            return value
        slot = token_slot(self._side, REAL)
        if slot in self._view.reads.given:
            rows, tokens = self._view.reads.value(slot).shape
            if self._view.reads.sizes.now(_shape(self._view)[0]) == rows * tokens:
                shape: Any = self._view.emission.proxy(self._view.reads(slot)).shape
                return value.unflatten(0, [shape[0], shape[1]])
        raise PeftError(
            f"the tokens at {self._view.occurrence.site.id} are no sequence: batch and tokens are "
            "one dimension there",
            code="R516",
            help="place the method where the hidden state is `[batch, tokens, features]`",
        )

    def as_given(self, value: Any) -> Any:
        """The inverse of ``by_row``."""
        return value.flatten(0, 1) if _is_flat(self._view) else value

    def _fact(self, what: str, *, rows: bool = False) -> Any:
        view, slot = self._view, token_slot(self._side, what)
        if slot not in view.reads.given:
            return None
        _check_length(view, slot)
        found: Any = view.emission.proxy(view.reads(slot))
        return found.flatten() if _is_flat(view) and not rows else found

    def _token(self) -> Any:
        """One number for each token."""
        known = self._view.known
        value: Any = self._view.read(known).detach()
        for _ in POSITIONS[self._view.occurrence.site.role][known].dims:
            value = value.select(-1, 0)
        return value


def _no_ids(site: Site) -> PeftError:
    return PeftError(
        f"the method at {site.id} chooses tokens by their ids, and this call gives none",
        code="R517",
        help="call the whole model with its token ids (`input_ids`, `decoder_input_ids`) rather "
        "than embeddings",
    )


def _is_flat(view: "SiteView") -> bool:
    """Whether batch and tokens are one dimension at the site."""
    return len(_shape(view)) == 2


def _shape(view: "SiteView") -> tuple[Any, ...]:
    if view.occurrence.product is not None:
        return ()
    value = view.node("h").meta.get("example_value")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _check_length(view: "SiteView", slot: str) -> None:
    shape = _shape(view)
    given = view.reads.value(slot).shape[1]
    has = view.reads.sizes.now(shape[1]) if len(shape) == 3 else given
    if has != given:
        raise PeftError(
            f"the model was given {given} tokens, and {view.occurrence.site.id} has "
            f"{has}, so the method does not know them",
            code="R516",
            help="place the method where the sequence is the model's input sequence",
        )

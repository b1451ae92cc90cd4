"""What a site's sequence is in a graph: where its tokens lie, their ids, which are padding."""

from collections import abc
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch.fx import Node

from peftlang.diagnostics import PeftError
from peftlang.emit.rewriting import Emission, Rewriting
from peftlang.emit.slots import Slot
from peftlang.ir.builtins.site import Tokens
from peftlang.ir.builtins.tensors import averages_batch
from peftlang.ir.expr import Apply, postorder
from peftlang.ir.method import Method
from peftlang.ir.plan import Site
from peftlang.ir.positions import POSITIONS
from peftlang.ir.reach import asking
from peftlang.ir.soft_tokens import entries, reserved_at, soft_at
from peftlang.ir.types import Level, Type

FROM_START, FROM_END, REAL, IDS = "first", "last", "real", "ids"


def token_slot(side: str, fact: str) -> Slot:
    """Slot of a fact about each token of a sequence in this call, ``[batch, tokens]``.

    ``first`` and ``last`` are places counted from one end of the prompt; padding, soft and
    generated tokens are further from either end than any number. ``real`` is false at padding,
    and ``ids`` are the tokens' ids, below zero for soft ones.
    """
    return Slot("token", f"{side}.{fact}")


def filled_slot(side: str) -> Slot:
    """Slot that is given where soft tokens stand before a sequence in this call."""
    return Slot("filled", side)


def reads_places(method: Method) -> bool:
    """Whether a method asks where tokens lie, or which they are; a mean leaves padding out."""
    averaged = any(penalty.type.level is Level.TOKEN for penalty in method.penalties)
    nodes = postorder(*method.penalties)
    averaged |= any(isinstance(node, Apply) and averages_batch(node) for node in nodes)
    return averaged or bool(asking(method))


class Names(Protocol):
    """What a sequence asks of the view of a site: see ``SiteView``."""

    known: str
    now: dict[str, Node]
    emission: Emission
    work: Rewriting

    @property
    def site(self) -> Site: ...

    @property
    def is_flat(self) -> bool: ...

    def read(self, name: str) -> Any: ...

    def shape(self, name: str) -> tuple[int, ...]: ...


class Sequence(Tokens):
    """The sequence at one occurrence of a site, as the builtins ask for it.

    Where the call did not say what its tokens are (image patches, one layer by itself), all that
    is there is prompt, and none of it padding.

    Args:
        view: The occurrence, and where to write.
    """

    def __init__(self, view: Names) -> None:
        self._view, self._site, self._work = view, view.site, view.work
        self._side = view.site.sequence

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

    def identified(self, ids: abc.Sequence[Any]) -> Any:
        """Which tokens have one of these ids and are no padding: booleans ``[batch, tokens]``.

        Raises:
            PeftError: R517, the call gives no ids.
        """
        held, real = self._fact(IDS, rows=True), self.real()
        if held is None or real is None:
            raise _no_ids(self._site)
        found = held == int(ids[0])
        for one in ids[1:]:
            found = found | (held == int(one))
        return found & real

    def as_number(self, marks: Any) -> Any:
        """Booleans ``[batch, tokens, …]`` as 0 and 1, laid out as the site's tokens are."""
        return self.as_given(self._number(marks))

    def _number(self, marks: Any) -> Any:
        return marks.type_as(self._view.read(self._view.known).detach())

    def soft(self, count: int) -> Any:
        """1 in column k at the k-th soft token: ``[batch, tokens, count]``."""
        room, held = self._in_front()
        if count > held > 0:
            raise PeftError(
                f"`soft({count})` is read at {self._site.id}, and only {held} soft "
                "tokens are put before the sequence",
                code="R518",
                help="let both have the same number",
            )
        place = torch.ones_like(self.by_row(self._token()), dtype=torch.long).cumsum(1) - 1 - room
        place = place if held else place - place - 1
        column = torch.ones_like(place.unsqueeze(-1).expand(-1, -1, count)).cumsum(-1) - 1
        return self.as_number(place.unsqueeze(-1) == column)

    def _in_front(self) -> tuple[int, int]:
        """How many reserved positions, then how many soft tokens, the site's rows begin with."""
        if not self._work.has(filled_slot(self._side)):
            return 0, 0
        own = [e for e in entries(self._work.active) if e.site.sequence == self._side]
        reserved = reserved_at(self._work.active, self._site) if own and own[0].has_ids else 0
        return reserved, soft_at(self._work.active, self._site)

    def real(self) -> Any:
        """False at padding and reserved positions, ``[batch, tokens]``; None where all are real."""
        found, (room, _) = self._fact(REAL, rows=True), self._in_front()
        if not room:
            return found
        filled = torch.ones_like(self.by_row(self._token()), dtype=torch.long).cumsum(1) > room
        return filled if found is None else found & filled

    def causal(self) -> bool:
        """Whether no token of the site's stack sees a later one; so where nothing tells."""
        return self._site.sees in {"earlier", None}

    def average(self, value: Any, have: Type) -> Any:
        """The mean of a value over the real tokens of all rows, or over the rows.

        Args:
            value: ``[batch, tokens, *dims]``, or ``[batch, *dims]`` where ``have`` says so.
            have: Its type.
        """
        if have.level is Level.EXAMPLE:
            return value.mean(0)
        if not self._view.is_flat:
            value = value.flatten(0, 1)
        real = self.real()
        if real is None:
            return value.mean(0)
        weight = real.flatten().type_as(value)
        for _ in have.dims:
            weight = weight.unsqueeze(-1)
        return (value * weight).sum(0) / weight.sum(0).clamp(min=1)

    def grid(self) -> tuple[Any, Any, Any, Any]:
        """Tokens before the patches, rows and columns of patches, tokens after them.

        Raises:
            PeftError: R519, the model's graph does not show an image's patches.
        """
        grids = self._work.grids
        if not grids:
            raise _no_patches(self._site.id)
        cuts = [(self._view.emission.proxy(self._work.read(cut)), around) for cut, around in grids]
        front = self._in_front()[1]
        token = self.by_row(self._token())
        found = self._view.emission.call(find_grid, token, front, cuts, self._site.id)
        return found[0], found[1], found[2], found[3]

    def by_row(self, value: Any) -> Any:
        """A token-level value ``[batch, tokens, …]``, where the site has these as one dimension.

        Raises:
            PeftError: R516, the site's tokens are no sequence.
        """
        if not self._view.is_flat:
            return value
        slot = token_slot(self._side, REAL)
        if not self._work.has(slot):
            raise _no_sequence(self._site.id)
        emission = self._view.emission
        real = emission.proxy(self._work.read(slot))
        return emission.call(in_rows, value, real, self._site.id)

    def as_given(self, value: Any) -> Any:
        """The inverse of ``by_row``."""
        return value.flatten(0, 1) if self._view.is_flat else value

    def _fact(self, what: str, *, rows: bool = False) -> Any:
        view, slot = self._view, token_slot(self._side, what)
        if not self._work.has(slot):
            return None
        found: Any = view.emission.proxy(self._work.read(slot))
        if view.is_flat:
            return found if rows else found.flatten()
        if len(view.shape(view.known)) == 3:
            token = view.emission.proxy(view.now[view.known])
            found = view.emission.call(as_long, found, token, self._site.id)
        return found

    def _token(self) -> Any:
        """One number for each token."""
        known = self._view.known
        value: Any = self._view.read(known).detach()
        for _ in POSITIONS.get(self._site.role, POSITIONS["block"])[known].dims:
            value = value.select(-1, 0)
        return value


# What shows only when a graph runs


def as_long(fact: Any, hidden: Any, site: str) -> Any:
    """A fact about each token, where a site has as many tokens as the model was given.

    Raises:
        PeftError: R516.
    """
    if fact.shape[1] != hidden.shape[1]:
        raise PeftError(
            f"the model was given {fact.shape[1]} tokens, and {site} has {hidden.shape[1]}, so the "
            "method does not know them",
            code="R516",
            help="place the method where the sequence is the model's input sequence",
        )
    return fact


def in_rows(value: Any, real: Any, site: str) -> Any:
    """``[batch * tokens, …]`` as ``[batch, tokens, …]``, in a call of such rows.

    Raises:
        PeftError: R516.
    """
    rows, tokens = real.shape
    if value.shape[0] != rows * tokens:
        raise _no_sequence(site)
    return value.unflatten(0, [rows, tokens])


Cut = tuple[Any, tuple[tuple[int, int], ...]]
"""What cuts an image into patches, ``[batch, d, rows, columns]``, and at each stage of the
sequence how many tokens stand before its patches, and after them."""


def find_grid(token: Any, front: int, cuts: list[Cut], site: str) -> tuple[int, int, int, int]:
    """Where the patches stand among the tokens of a site.

    Args:
        token: A number for each token, ``[batch, tokens]``.
        front: Soft tokens before all others.
        cuts: All that cuts images into patches in this model.
        site: The site's name.

    Raises:
        PeftError: R519.
    """
    for patches, stages in cuts:
        if patches is None:
            continue
        rows, columns = patches.shape[-2:]
        for before, after in stages:
            if front + before + rows * columns + after == token.shape[1]:
                return front + before, rows, columns, after
    raise _no_patches(site)


def _no_patches(site: str) -> PeftError:
    return PeftError(
        f"the graph does not show which tokens at {site} are the patches of an image",
        code="R519",
        help="call the whole model, so that its patches are in the graph; `conv` works along any "
        "sequence",
    )


def _no_sequence(site: str) -> PeftError:
    return PeftError(
        f"the tokens at {site} are no sequence: batch and tokens are one dimension there",
        code="R516",
        help="place the method where the hidden state is `[batch, tokens, features]`",
    )


def _no_ids(site: Site) -> PeftError:
    return PeftError(
        f"the method at {site.id} chooses tokens by their ids, and this call gives none",
        code="R517",
        help="call the whole model with its token ids (`input_ids`, `decoder_input_ids`) rather "
        "than embeddings",
    )

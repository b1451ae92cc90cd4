"""What builtins ask of a site besides their operands: the one list of it.

A site that a pass writes into a graph answers with values of the graph, a site that `verify` makes
up with tensors, and each row of an embedding, when it is merged, with its id. What one of them has
no answer to, analysis keeps from being asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from peftlang.ir.types import Type


class Tokens:
    """The sequence in which a site's tokens stand."""

    def token_mask(self, keywords: Mapping[str, Any]) -> Any:
        """``[*implicit]``: 1 for the first and the last tokens that ``keywords`` say, else 0."""
        raise _unasked()

    def identified(self, ids: Sequence[Any]) -> Any:
        """``[*implicit]``: whether a token has one of these ids; a text names a special token."""
        raise _unasked()

    def as_number(self, marks: Any) -> Any:
        """Booleans in the number type of the site."""
        raise _unasked()

    def soft(self, count: int) -> Any:
        """``[*implicit, count]``: which of the first ``count`` soft tokens a token is."""
        raise _unasked()

    def real(self) -> Any:
        """``[batch, tokens]``: which tokens are no padding; None where all are."""
        raise _unasked()

    def causal(self) -> bool:
        """Whether no token sees a later one."""
        raise _unasked()

    def grid(self) -> tuple[Any, Any, Any, Any]:
        """Tokens before an image's patches, rows and columns of patches, tokens behind them."""
        raise _unasked()

    def by_row(self, value: Any) -> Any:
        """A value of the site as ``[batch, tokens, …]``."""
        raise _unasked()

    def as_given(self, value: Any) -> Any:
        """The inverse of ``by_row``."""
        raise _unasked()


class AtSite:
    """A site: its tokens, and its attention product where it is one."""

    @property
    def sequence(self) -> Tokens:
        """The site's tokens."""
        raise _unasked()

    def average(self, value: Any, have: Type) -> Any:
        """The mean of a value over the real tokens of all rows."""
        raise _unasked()

    def scores(self, query: Any, keys: Any) -> Any:
        """``[*implicit, heads, n]``: scaled products with constant keys ``[n, kv_heads, d]``."""
        raise _unasked()

    def mix(self, weights: Any, values: Any) -> Any:
        """``[*implicit, heads, d]``: values ``[n, kv_heads, d]`` by ``[*implicit, heads, n]``."""
        raise _unasked()

    def project(self, part: str, value: Any) -> Any:
        """``[…, d_x]`` through the site's own projection to ``k`` or ``v``, by heads."""
        raise _unasked()

    def log_normaliser(self) -> Any:
        """``[*implicit, heads]``: log-sum-exp of the scores of the site's own keys."""
        raise _unasked()


def _unasked() -> AssertionError:
    return AssertionError("this site is not asked for that")

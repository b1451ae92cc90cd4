"""The attention product on real tensors, as the language sees it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from peftlang.ir.builtins.site import AtSite
from peftlang.ir.types import Type
from peftlang.verifying.tokens import Tokens


class BuiltinsSite(AtSite):
    """What builtins ask of a site: its attention product, and where its tokens stand.

    Args:
        mask: True where a query sees a key, ``[tokens, keys]``.
        scale: What scores are multiplied by.
        tokens: The site's sequence.
        values: The site's values; ``q``, ``k``, ``W_k`` and ``W_v`` at an attention product.
    """

    def __init__(
        self, mask: Tensor, scale: float, values: Mapping[str, Tensor], tokens: Tokens
    ) -> None:
        self.mask, self.scale, self._values = mask, scale, values
        self._tokens = tokens

    @property
    def sequence(self) -> Tokens:
        """The site's tokens."""
        return self._tokens

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[..., heads, n]``: scaled products with constant keys ``[n, kv_heads, d_head]``."""
        repeated = keys.repeat_interleave(query.shape[-2] // keys.shape[1], dim=1)
        return torch.einsum("...hd,nhd->...hn", query, repeated) * self.scale

    def mix(self, weights: Tensor, values: Tensor) -> Tensor:
        """``[..., heads, d]``: values ``[n, kv_heads, d]`` weighted by ``[..., heads, n]``."""
        repeated = values.repeat_interleave(weights.shape[-2] // values.shape[1], dim=1)
        return torch.einsum("...hn,nhd->...hd", weights, repeated)

    def project(self, part: str, value: Tensor) -> Tensor:
        """``[…, d_x]`` through the site's own projection to ``k`` or ``v``, by heads."""
        made: Tensor = torch.nn.functional.linear(value, self._values[f"W_{part}"])
        heads: Tensor = made.unflatten(-1, self._values[part].shape[-2:])
        return heads

    def log_normaliser(self) -> Tensor:
        """``[batch, tokens, heads]``: log-sum-exp of the scores of the site's own keys."""
        scores = _scores(self._values["q"], self._values["k"], self.mask, self.scale)
        return torch.logsumexp(scores, dim=-1).transpose(1, 2)

    def token_mask(self, keywords: Mapping[str, Any]) -> Tensor:
        """``[batch, tokens]``: 1 for the first and the last tokens, 0 for others."""
        return self.sequence.token_mask(keywords)

    def average(self, value: Tensor, have: Type) -> Tensor:
        """The mean over the tokens of all rows; none of them is padding."""
        return value.mean(list(range(int(have.level))))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Softmax attention in the language's layout; keys beyond the mask are seen by all.

    Args:
        q: ``[batch, tokens, heads, d_head]``.
        k: ``[batch, keys, kv_heads, d_head]``; more keys than the mask has stand in front.
        v: ``[batch, keys, kv_heads, d]``.
        mask: True where a query sees a key, ``[tokens, keys]``.
        scale: What scores are multiplied by.
    """
    extra = k.shape[1] - mask.shape[1]
    mask = torch.nn.functional.pad(mask, (extra, 0), value=True) if extra > 0 else mask
    weights = torch.softmax(_scores(q, k, mask, scale), dim=-1)
    repeated = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    return torch.einsum("bhtn,bnhd->bthd", weights, repeated)


def _scores(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    repeated = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bthd,bnhd->bhtn", q, repeated) * scale
    return scores.masked_fill(~mask, float("-inf"))

"""The attention product as values of the language: queries, keys, values, head outputs."""

from typing import Any

import torch
from torch.fx import Node

from peftlang.capture.facts import VALUE
from peftlang.dataflow.attention import Product
from peftlang.dataflow.ops import argument
from peftlang.diagnostics import PeftError
from peftlang.emit.rewriting import Emission, Rewriting
from peftlang.emit.rows import select
from peftlang.emit.score_chain import replayed
from peftlang.emit.slots import Slot
from peftlang.emit.views import SiteView
from peftlang.ir.plan import Site
from peftlang.sites.occurrence import Occurrence

FOLDED = "bkgd"
"""Layout of the queries of one token: heads that share a key stand where tokens else do."""


def is_folded(site: Site, call: Node) -> bool:
    """Whether a product's queries are of one token, with heads in the place of tokens."""
    value = argument(call, 0, "query").meta.get(VALUE)
    heads, own = site.dims["heads"], site.dims.get("kv_heads", 0)
    return (
        own not in {0, heads}
        and value.dim() == 4
        and tuple(value.shape[1:3]) == (own, heads // own)
    )


class AttentionView(SiteView):
    """An attention product: heads stand before tokens in the graph, after them in the language.

    ``q`` and ``h`` are ``[batch, tokens, heads, d_head]``; ``k`` and ``v`` are
    ``[batch, keys, kv_heads, d_head]`` even where the graph repeats them for every head.
    """

    def __init__(self, occurrence: Occurrence, emission: Emission, work: Rewriting) -> None:
        super().__init__(occurrence, emission, work)
        if occurrence.product is None:
            raise AssertionError(f"{occurrence.site.id} has no attention product")
        self.product: Product = occurrence.product
        dims = occurrence.site.dims
        self.heads, self.kv_heads = dims["heads"], dims.get("kv_heads", dims["heads"])
        self.repeats = self.heads // self.kv_heads

    def read(self, name: str) -> Any:
        value = super().read(name)
        if name == "x":
            return value
        layout = self._layout(name)
        if layout == FOLDED:
            return value.flatten(1, 2).unsqueeze(1)
        if layout.startswith("n"):
            count = self.heads if name in "qh" or self.product.kv_repeats else self.kv_heads
            value, layout = value.unflatten(0, [-1, count]), layout.replace("n", "bh")
        value = _laid_out(value, layout, "bthd")
        if name in "kv" and self._repeated:
            value = value.unflatten(2, [self.kv_heads, self.repeats]).select(3, 0)
        return value

    def restored(self, target: str, value: Any) -> Any:
        layout = self._layout(target)
        if layout == FOLDED:
            return value.squeeze(1).unflatten(1, [self.kv_heads, self.repeats])
        if target in "kv" and self._repeated:
            value = value.repeat_interleave(self.repeats, dim=2)
        value = _laid_out(value, "bthd", layout.replace("n", "bh"))
        return value.flatten(0, 1) if layout.startswith("n") else value

    def _layout(self, name: str) -> str:
        return self.occurrence.layout.get(name, "bhtd")

    @property
    def _repeated(self) -> bool:
        return self.product.kv_repeats and self.repeats > 1

    @property
    def is_flat(self) -> bool:
        return False

    def scores(self, query: Any, keys: Any) -> Any:
        """Products ``[batch, tokens, heads, n]`` of queries with constant keys, scaled.

        Args:
            query: ``[batch, tokens, heads, d_head]``.
            keys: ``[n, kv_heads, d_head]``.
        """
        grouped = query.unflatten(-2, [self.kv_heads, self.repeats])
        products = torch.einsum("...kgd,nkd->...kgn", grouped, keys).flatten(-3, -2)
        return self._scaled(products)

    def row_scores(self, keys: Any) -> Any:
        """Scaled products of the queries with keys ``[batch, n, kv_heads, d_head]`` of each row."""
        grouped = self.read("q").unflatten(-2, [self.kv_heads, self.repeats])
        products = torch.einsum("btkgd,bnkd->btkgn", grouped, keys).flatten(-3, -2)
        return self._scaled(products)

    def mix(self, weights: Any, values: Any) -> Any:
        """Values ``[n, kv_heads, d]`` weighted by ``[batch, tokens, heads, n]``."""
        grouped = weights.unflatten(-2, [self.kv_heads, self.repeats])
        return torch.einsum("...kgn,nkd->...kgd", grouped, values).flatten(-3, -2)

    def project(self, part: str, value: Any) -> Any:
        """``[…, d_x]`` through the layer's own projection to keys or values, by heads.

        Raises:
            PeftError: S410, no one weight of this layer makes them.
        """
        found = self.occurrence.projected(part)
        if found is None:
            raise PeftError(
                f"no one weight makes the `{part}` of the attention product at "
                f"{self.site.path}, so `project_{part}` has no meaning there",
                code="S410",
                help="let the method have keys and values of its own",
            )
        weight = self._weight(found.weight)
        weight = weight.transpose(0, 1) if found.transposed else weight
        bias: Any = None if found.bias is None else self._weight(found.bias)
        if found.rows is not None:
            weight = select(weight, found.rows, axis=0)
            bias = None if bias is None else select(bias, found.rows, axis=0)
        made: Any = torch.nn.functional.linear(value, weight, bias)
        return made.unflatten(-1, [self.kv_heads, -1])

    def _weight(self, name: str) -> Any:
        return self.emission.proxy(self.work.read(Slot("weight", name)))

    def log_normaliser(self) -> Any:
        """Log of the sum of exponentials over the site's own keys, ``[batch, tokens, heads]``."""
        if self.product.kind == "softmax":
            softmax = self._part("softmax")
            scores: Any = self.emission.proxy(_softmax_input(softmax))
            if self.occurrence.layout.get("h") == "ntd":
                scores = scores.unflatten(0, [-1, self.heads])
        else:
            scores = self._explicit_scores()
        found = torch.logsumexp(scores, dim=-1)
        if self._layout("q") == FOLDED:
            return found.flatten(1, 2).unsqueeze(1)
        return found.transpose(1, 2)

    def _scaled(self, products: Any) -> Any:
        if self.product.kind == "sdpa":
            return products * self._scale()
        chained = products.transpose(1, 2)
        chained = replayed(self.emission, self._part("scores"), self._part("softmax"), chained)
        return chained.transpose(1, 2)

    def _scale(self) -> float:
        scale = self.product.scale
        return float(scale) if scale is not None else self.site.dims["d_head"] ** -0.5

    def _explicit_scores(self) -> Any:
        query, keys = SiteView.read(self, "q"), SiteView.read(self, "k")
        if not self.product.kv_repeats and self.repeats > 1 and self._layout("q") != FOLDED:
            keys = keys.repeat_interleave(self.repeats, dim=1)
        turned = keys if self._layout("k").endswith("dt") else keys.transpose(-1, -2)
        scores = torch.matmul(query, turned) * self._scale()
        mask = self._mask(scores)
        if mask is None:
            return scores
        if self._mask_is_bool():
            return torch.where(mask, scores, float("-inf"))
        return scores + mask

    def _mask_is_bool(self) -> bool:
        if self.product.mask is None:
            return True
        value = self.product.mask.meta.get(VALUE)
        return isinstance(value, torch.Tensor) and value.dtype is torch.bool

    def _mask(self, scores: Any) -> Any:
        """The mask that the product uses, made explicit where it is only said to be causal."""
        if self.product.mask is not None:
            return self.emission.proxy(self.product.mask)
        if argument(self.occurrence.call, 5, "is_causal", default=False):
            return torch.tril(torch.ones_like(scores.select(0, 0).select(0, 0), dtype=torch.bool))
        return None

    def _part(self, name: str) -> Node:
        part = getattr(self.product, name)
        if part is None:
            raise PeftError(
                f"the attention product at {self.site.path} has no {name} to work on",
                code="S410",
                help="place the method on `attn` or on projections instead",
            )
        return part  # type: ignore[no-any-return]


def _laid_out(value: Any, have: str, wanted: str) -> Any:
    """A tensor with its dimensions in another order; a letter names each."""
    order = [have.index(letter) for letter in wanted]
    return value if have == wanted else value.permute(order)


def _softmax_input(softmax: Node) -> Node:
    return softmax.all_input_nodes[0]


def square_of_ones(query: Any, keys: Any) -> Any:
    """Booleans ``[tokens, keys]``, all true, for ``[batch, heads, n, d]`` queries and keys."""
    rows = query.detach().select(0, 0).select(0, 0).select(-1, 0).unsqueeze(1)
    columns = keys.detach().select(0, 0).select(0, 0).select(-1, 0).unsqueeze(0)
    return torch.ones_like(rows + columns, dtype=torch.bool)

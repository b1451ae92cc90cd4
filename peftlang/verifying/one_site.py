"""One site on real tensors: what it computes alone, and what with a method."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Method
from peftlang.ir.positions import EMBED, NORM, POSITIONS, PROJECTION
from peftlang.ir.sizes import site_sizes
from peftlang.verifying.attention import BuiltinsSite, attention
from peftlang.verifying.drawn_tensors import (
    generator_of,
    given_values,
    hidden_states,
    method_tensors,
    weights,
)
from peftlang.verifying.method_at_site import Values, expressions_at_site, method_at_site
from peftlang.verifying.site_case import PlacedMethod, is_attention_product
from peftlang.verifying.tokens import Tokens, ids_of_tokens, ids_to_look_up, named_ids


@dataclass
class Outcome:
    """What a site computed.

    Attributes:
        h: The site's output.
        targets: New value of each target that was written, and of ``h``.
    """

    h: Tensor
    targets: Values


@dataclass
class OneSite:
    """A site with its numbers; each tensor depends on its name and the case alone.

    Attributes:
        placed: The case and the method.
        leaves: The site's hidden states that are inputs of the whole, gradients on.
        frozen: The site's own weights, gradients off.
        tensors: The method's tensors; those that train have gradients on.
        inputs: What the spec declares as ``input``; and what other sites would bring, gradients on.
    """

    placed: PlacedMethod
    leaves: Values
    frozen: Values
    tensors: Values
    inputs: Values = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.placed.case.dtype)
        return found

    @property
    def trained(self) -> Values:
        """The method's tensors that train."""
        names = {d.name for d in self.placed.method.tensors if d.trainable}
        return {name: value for name, value in self.tensors.items() if name in names}

    @property
    def mask(self) -> Tensor:
        """True where a query sees a key, ``[tokens, keys]``."""
        case = self.placed.case
        ones = torch.ones(case.sizes["tokens"], case.sizes["keys"], dtype=torch.bool)
        return ones.tril() if case.causal else ones

    @property
    def scale(self) -> float:
        """What an attention product multiplies its scores by."""
        return float(self.placed.case.sizes["d_head"] ** -0.5)

    @property
    def tokens(self) -> Tokens:
        """The sequence, as builtins and references are told of it."""
        sizes = self.placed.case.sizes
        like = torch.zeros(sizes["batch"], sizes["tokens"], dtype=self.dtype)
        return Tokens(like, causal=self.placed.case.causal, ids=self.ids())

    def ids(self) -> Tensor:
        """Each token's id, ``[batch, tokens]``; an embedding looks these up."""
        sizes, placed = self.placed.case.sizes, self.placed
        given = {**placed.use.args, **placed.adapter.args}
        named = named_ids(placed.method, given, placed.sizes)
        shape = sizes["batch"], sizes["tokens"]
        if POSITIONS[placed.case.role] is not EMBED:
            return ids_of_tokens(*shape, named)
        return ids_to_look_up(*shape, sizes["vocab"], named, generator_of(placed, "tokens"))

    def values(self, leaves: Values | None = None) -> Values:
        """Every name in scope: the leaves, the weights, and ``h`` where it follows from them."""
        found = {**(leaves or self.leaves), **self.frozen}
        if "h" not in found:
            found["h"] = self.site_output(found)
        return found

    def site_output(self, values: Values) -> Tensor:
        """What the site itself computes from the names in scope."""
        role = self.placed.case.role
        scope = POSITIONS[role]
        if scope is PROJECTION:
            return torch.nn.functional.linear(values["x"], values["W"], values.get("b"))
        if scope is NORM:
            x, gain = values["x"], values["W"]
            return torch.nn.functional.layer_norm(x, gain.shape, gain, values.get("b"))
        if scope is EMBED:
            return torch.nn.functional.embedding(self.ids(), values["W"])
        if is_attention_product(role):
            return attention(values["q"], values["k"], values["v"], self.mask, self.scale)
        return values["h"]

    def run(
        self,
        method: Method | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        leaves: Values | None = None,
    ) -> Outcome:
        """What the site computes with the method.

        Args:
            method: Another method than the case's, of the same position.
            tensors: Other tensors than the site's.
            leaves: Other hidden states than the site's.
        """
        method, values = method or self.placed.method, self.values(leaves)
        targets = method_at_site(
            method,
            self._sizes(method),
            values,
            {**self.inputs, **(tensors or self.tensors)},
            lambda changed: self.composed(values, changed).h,
            self._as_builtins_see_it(values),
            training=self.placed.case.training,
        )
        return Outcome(targets["h"], targets)

    def composed(self, values: Values, targets: Values) -> Outcome:
        """The site's output where some of the names in scope have new values."""
        if "h" in targets:
            return Outcome(targets["h"], targets)
        h = self.site_output(values | targets)
        if "x" in targets and "h" in self.leaves:
            h = h + self._passed_on(targets["x"] - values["x"])
        return Outcome(h, targets)

    def _passed_on(self, change: Tensor) -> Tensor:
        """What becomes of a change of ``x`` at a site that is no single operation.

        A sub-layer's output and a block's are drawn, not computed; a fixed linear map of each
        token stands in for what the site would make of a change.
        """
        shape = [self.placed.case.sizes[name] for name in ("d_h", "d_x")]
        drawn = torch.randn(shape, generator=generator_of(self.placed, "passed on"))
        found: Tensor = torch.nn.functional.linear(change, drawn.to(change.dtype))
        return found

    def expressions(
        self, values: Values | None = None, *, training: bool | None = None
    ) -> Interpreter:
        """Evaluates the method's expressions here.

        Args:
            values: The names in scope; None for the site's own.
            training: Whether in training mode; None as the case says.
        """
        values = self.values() if values is None else values
        return expressions_at_site(
            self.placed.method,
            self._sizes(self.placed.method),
            values,
            {**self.inputs, **self.tensors},
            self._as_builtins_see_it(values),
            training=self.placed.case.training if training is None else training,
        )

    def _sizes(self, method: Method) -> dict[str, int]:
        own = site_sizes(method, self.placed.use.args, self.placed.site)
        return {**self.placed.sizes, **own}

    def _as_builtins_see_it(self, values: Values) -> BuiltinsSite:
        return BuiltinsSite(self.mask, self.scale, values, self.tokens)


def one_site(placed: PlacedMethod, *, initial: bool = False) -> OneSite:
    """Make every tensor of a case.

    Args:
        placed: The case and the method.
        initial: Leave the method's tensors as they start, rather than moved away from there.
    """
    frozen = weights(placed)
    tensors = method_tensors(placed, frozen, initial=initial)
    return OneSite(placed, hidden_states(placed), frozen, tensors, given_values(placed))

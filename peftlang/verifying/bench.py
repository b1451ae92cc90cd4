"""One site on real tensors: what it computes alone, and what with a method."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from peftlang.diagnostics import PeftError
from peftlang.emit.starts import tensor_seed
from peftlang.ir.inits import INITIALISERS, InitCall
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import CarryDef, Method, TapDef, TensorDef
from peftlang.ir.positions import EMBED, NORM, POSITIONS, PROJECTION
from peftlang.ir.sizes import site_sizes
from peftlang.ir.types import Level, Type
from peftlang.verifying.attention import Product, attention
from peftlang.verifying.situation import Placed, is_core
from peftlang.verifying.tokens import Tokens, named_ids

FROZEN = frozenset({"W", "b"})
Values = dict[str, Tensor]


@dataclass
class Outcome:
    """What a site computed.

    Attributes:
        h: The site's output.
        targets: New value of each target that was written, ``h`` included.
    """

    h: Tensor
    targets: Values


@dataclass
class Bench:
    """A site with its numbers; each tensor depends on its name and the situation alone.

    Attributes:
        placed: The site and the method.
        leaves: The site's hidden states that are inputs of the whole, gradients on.
        frozen: The site's own weights, gradients off.
        tensors: The method's tensors; those that train have gradients on.
        inputs: What the spec declares as ``input``; and what other sites would bring, gradients on.
    """

    placed: Placed
    leaves: Values
    frozen: Values
    tensors: Values
    inputs: Values = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.placed.situation.dtype)
        return found

    @property
    def trained(self) -> Values:
        """The method's tensors that train."""
        names = {d.name for d in self.placed.method.tensors if d.trainable}
        return {name: value for name, value in self.tensors.items() if name in names}

    @property
    def mask(self) -> Tensor:
        sizes, causal = self.placed.situation.sizes, self.placed.situation.causal
        ones = torch.ones(sizes["tokens"], sizes["keys"], dtype=torch.bool)
        return ones.tril() if causal else ones

    @property
    def scale(self) -> float:
        return float(self.placed.situation.sizes["d_head"] ** -0.5)

    @property
    def tokens(self) -> Tokens:
        """The sequence, as builtins and references are told of it."""
        sizes = self.placed.situation.sizes
        like = torch.zeros(sizes["batch"], sizes["tokens"], dtype=self.dtype)
        given = {**self.placed.use.args, **self.placed.adapter.args}
        named = named_ids(self.placed.method, given, self.placed.sizes)
        return Tokens(like, causal=self.placed.situation.causal, named=named)

    def values(self, leaves: Values | None = None) -> Values:
        """Every name in scope: the leaves, the weights, and ``h`` where it follows from them."""
        found = {**(leaves or self.leaves), **self.frozen}
        if "h" not in found:
            found["h"] = self.site_output(found)
        return found

    def site_output(self, values: Values) -> Tensor:
        """What the site itself computes from the names in scope."""
        scope = POSITIONS[self.placed.situation.role]
        if scope is PROJECTION:
            return torch.nn.functional.linear(values["x"], values["W"], values.get("b"))
        if scope is NORM:
            x, gain = values["x"], values["W"]
            return torch.nn.functional.layer_norm(x, gain.shape, gain, values.get("b"))
        if scope is EMBED:
            return torch.nn.functional.embedding(self.embedded(), values["W"])
        if is_core(self.placed.situation.role):
            return attention(values["q"], values["k"], values["v"], self.mask, self.scale)
        return values["h"]

    def embedded(self) -> Tensor:
        """Ids that an embedding looks up, ``[batch, tokens]``; all rows begin with the same."""
        sizes = self.placed.situation.sizes
        generator = _generator(self.placed, "tokens")
        shape = sizes["batch"], sizes["tokens"]
        found = torch.randint(sizes["vocab"], shape, generator=generator)
        found[:, 0] = found[0, 0].clone()
        return found

    def run(
        self, method: Method | None = None, tensors: Mapping[str, Tensor] | None = None,
        leaves: Values | None = None,
    ) -> Outcome:  # fmt: skip
        """What the site computes with the method: its operands first, then its ``h``.

        Args:
            method: Another method than the situation's, of the same position.
            tensors: Other tensors than the bench's.
            leaves: Other hidden states than the bench's.
        """
        method = method or self.placed.method
        own = {**self.inputs, **(tensors or self.tensors)}
        values = self.values(leaves)
        interpret = self.interpreter(method, own, values)
        early = [c for c in method.compositions if c.target != "h"]
        changed: Values = {c.target: self._cast(interpret(c.value)) for c in early}
        h = self.composed(values, changed).h
        interpret = self.interpreter(method, own, values | {"h": h})
        for late in (c for c in method.compositions if c.target == "h"):
            h = changed["h"] = self._cast(interpret(late.value))
        return Outcome(h, changed)

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
        shape = [self.placed.situation.sizes[name] for name in ("d_h", "d_x")]
        drawn = torch.randn(shape, generator=_generator(self.placed, "passed on"))
        found: Tensor = torch.nn.functional.linear(change, drawn.to(change.dtype))
        return found

    def interpreter(
        self, method: Method, own: Values, values: Values, *, training: bool | None = None
    ) -> Interpreter:
        """Evaluates a method's expressions here.

        Args:
            method: The method.
            own: Its tensors, inputs and streams.
            values: The names in scope.
            training: Whether in training mode; None as the situation says.
        """
        sequential = method.insertion == "sequential"

        def lookup(name: str) -> Tensor:
            if name in own:
                return own[name]
            return values["h" if name == "x" and sequential else name]

        sizes = {
            **self.placed.sizes,
            **site_sizes(method, self.placed.use.args, self.placed.site),
        }
        return Interpreter(
            torch, sizes, lookup,
            training=self.placed.situation.training if training is None else training,
            half=self.dtype in (torch.bfloat16, torch.float16),
            site=Product(self.mask, self.scale, values, self.tokens),
        )  # fmt: skip

    def _cast(self, value: Tensor) -> Tensor:
        cast: Tensor = value.to(self.dtype)
        return cast


def bench(placed: Placed, *, initial: bool = False) -> Bench:
    """Make every tensor of a situation.

    Args:
        placed: The site and the method.
        initial: Leave the method's tensors as they start, rather than moved away from there.
    """
    scope = POSITIONS[placed.situation.role]
    dtype: torch.dtype = getattr(torch, placed.situation.dtype)
    computed = scope is PROJECTION or scope is NORM or scope is EMBED
    computed = computed or is_core(placed.situation.role)
    leaves, frozen = {}, {}
    for name, type_ in scope.items():
        if name in FROZEN:
            if name == "W" or placed.situation.bias:
                frozen[name] = _site_value(placed, name, type_).to(dtype)
        elif not (name == "h" and computed):
            leaves[name] = _site_value(placed, name, type_).to(dtype).requires_grad_()
    if is_core(placed.situation.role):
        frozen |= {f"W_{part}": _projection(placed, part).to(dtype) for part in "kv"}
    made = Bench(placed, leaves, frozen, {}, _inputs(placed, dtype))
    made.tensors = _tensors(placed, frozen, dtype, initial=initial)
    return made


def _site_value(placed: Placed, name: str, type_: Type) -> Tensor:
    sizes = {**placed.sizes, **_own_sizes(placed)}
    shape = [dim.evaluate(sizes) for dim in type_.dims]
    value = torch.randn(
        [*_implicit(placed, type_), *shape], generator=_generator(placed, name),
        dtype=torch.float64,
    )  # fmt: skip
    if name == "W" and len(shape) == 2:
        value = value / math.sqrt(shape[-1])
    elif name == "W":
        value = 1 + 0.3 * value
    return value


def _projection(placed: Placed, part: str) -> Tensor:
    """The weight that makes an attention product's keys or values, ``[kv_heads * d_head, d_x]``."""
    sizes = {**placed.sizes, **_own_sizes(placed)}
    shape = [sizes["kv_heads"] * sizes["d_head"], sizes["d_x"]]
    generator = _generator(placed, f"W_{part}")
    return torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[1])


def _own_sizes(placed: Placed) -> dict[str, int]:
    """The site's own sizes, which sequential insertion does not change."""
    return {key: placed.situation.sizes[key] for key in ("d_x", "d_h")}


def _implicit(placed: Placed, type_: Type) -> list[int]:
    sizes = placed.situation.sizes
    implicit: dict[Level, list[int]] = {
        Level.CONST: [],
        Level.EXAMPLE: [sizes["batch"]],
        Level.TOKEN: [sizes["batch"], sizes["tokens"]],
    }
    return implicit[type_.level]


def _generator(placed: Placed, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(tensor_seed(placed.situation.seed, name))


def _inputs(placed: Placed, dtype: torch.dtype) -> Values:
    found = {}
    for entry in placed.method.inputs:
        shape = [placed.situation.sizes["batch"], *placed.shape(entry.dims)]
        generator = _generator(placed, f"input.{entry.name}")
        if entry.kind == "float":
            found[entry.name] = torch.randn(shape, generator=generator, dtype=dtype)
        else:
            limit = entry.limit.evaluate(placed.sizes) if entry.limit is not None else 4
            found[entry.name] = torch.randint(limit, shape, generator=generator)
    return found | _streams(placed, dtype)


def _streams(placed: Placed, dtype: torch.dtype) -> Values:
    """What other sites would bring: taps, and carried states, as inputs of their names."""
    found, sizes = {}, placed.sizes
    batch, tokens = placed.situation.sizes["batch"], placed.situation.sizes["tokens"]
    entries: list[TapDef | CarryDef] = [*placed.method.taps, *placed.method.carries]
    for entry in entries:
        own = [dim.evaluate(sizes) for dim in entry.dims]
        sequence = isinstance(entry, TapDef) and entry.sequence
        shape = [batch, *own] if sequence else [batch, tokens, *own]
        generator = _generator(placed, f"stream.{entry.name}")
        drawn = torch.randn(shape, generator=generator, dtype=dtype)
        found[entry.name] = drawn.requires_grad_()
    return found


def _tensors(placed: Placed, frozen: Values, dtype: torch.dtype, *, initial: bool) -> Values:
    found, starts = {}, dict(frozen)
    interpret = Interpreter(torch, placed.sizes, starts.__getitem__)
    for definition in placed.method.tensors:
        value = _start(placed, definition, interpret)
        starts[definition.name] = value
        if value.shape != placed.shape(definition.dims):
            raise PeftError(f"the start of `{definition.name}` has another shape", code="S408")
        if definition.trainable and not initial:
            noise = torch.randn(
                value.shape, generator=_generator(placed, f"noise.{definition.name}"),
                dtype=torch.float64,
            )  # fmt: skip
            value = value.double() + 0.5 * noise
        if value.is_floating_point():
            value = value.to(dtype)
        found[definition.name] = value.detach().requires_grad_(definition.trainable)
    return found


def _start(placed: Placed, definition: TensorDef, interpret: Interpreter) -> Tensor:
    """A tensor as it starts: drawn in float32, or computed from weights and earlier tensors."""
    init, shape = definition.init, placed.shape(definition.dims)
    if init.expression is not None:
        value = interpret(init.expression)
        if not isinstance(value, Tensor):
            value = torch.full(shape, float(value))
        spread: Tensor = value.expand(shape).clone() if value.dim() == 0 else value
        return spread
    assert init.name is not None
    call = InitCall(
        t=torch,
        shape=shape,
        generator=_generator(placed, definition.name),
        keywords={key: interpret(expr) for key, expr in init.keywords},
        args=tuple(interpret(expr) for expr in init.args),
    )
    made: Tensor = INITIALISERS[init.name].make(call)
    return made

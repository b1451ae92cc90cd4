"""The tensors of a site, and of a method as it starts there; each is drawn by its own name."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from peftlang.diagnostics import PeftError
from peftlang.emit.starts import tensor_seed
from peftlang.ir.inits import INITIALISERS, InitCall
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import CarryDef, TapDef, TensorDef
from peftlang.ir.positions import POSITIONS
from peftlang.ir.types import Level, Type
from peftlang.verifying.method_at_site import Values
from peftlang.verifying.site_case import (
    PlacedMethod,
    computes_its_output,
    is_attention_product,
)

_WEIGHTS = frozenset({"W", "b"})


def seed_of(placed: PlacedMethod, name: str) -> int:
    """The seed of what has this name: it follows from the name and the case's seed."""
    return tensor_seed(placed.case.seed, name)


def generator_of(placed: PlacedMethod, name: str) -> torch.Generator:
    """A generator for one tensor."""
    return torch.Generator().manual_seed(seed_of(placed, name))


def hidden_states(placed: PlacedMethod) -> Values:
    """What the site reads, and ``h`` where that is not computed, with gradients on."""
    computed = computes_its_output(placed.case.role)
    return {
        name: _value(placed, name, type_).requires_grad_()
        for name, type_ in POSITIONS[placed.case.role].items()
        if name not in _WEIGHTS and not (name == "h" and computed)
    }


def weights(placed: PlacedMethod) -> Values:
    """The site's own weights; at an attention product those that make its keys and values."""
    scope = POSITIONS[placed.case.role]
    wanted = _WEIGHTS if placed.case.bias else {"W"}
    found = {name: _value(placed, name, scope[name]) for name in scope if name in wanted}
    if is_attention_product(placed.case.role):
        found |= {f"W_{part}": _projection(placed, part) for part in "kv"}
    return found


def given_values(placed: PlacedMethod) -> Values:
    """What each call supplies, and what other sites bring: taps, and carried states."""
    found = {}
    batch, tokens = placed.case.sizes["batch"], placed.case.sizes["tokens"]
    for entry in placed.method.inputs:
        shape, generator = (
            [batch, *placed.shape(entry.dims)],
            generator_of(placed, f"input.{entry.name}"),
        )
        if entry.kind == "float":
            found[entry.name] = torch.randn(shape, generator=generator, dtype=_dtype(placed))
        else:
            limit = entry.limit.evaluate(placed.sizes) if entry.limit is not None else 4
            found[entry.name] = torch.randint(limit, shape, generator=generator)
    streams: list[TapDef | CarryDef] = [*placed.method.taps, *placed.method.carries]
    for stream in streams:
        # The first dimension of a tapped sequence is its own length.
        sequence = isinstance(stream, TapDef) and stream.sequence
        lead = [batch] if sequence else [batch, tokens]
        generator = generator_of(placed, f"stream.{stream.name}")
        shape = [*lead, *placed.shape(stream.dims)]
        drawn = torch.randn(shape, generator=generator, dtype=_dtype(placed))
        found[stream.name] = drawn.requires_grad_()
    return found


def method_tensors(placed: PlacedMethod, frozen: Values, *, initial: bool) -> Values:
    """The method's tensors as they start, or moved away from there.

    Args:
        placed: The method at its site.
        frozen: The site's weights, which a start may read.
        initial: Leave them as they start.

    Raises:
        PeftError: S408, a start has another shape than its tensor.
    """
    dtype = _dtype(placed)
    found, starts = {}, dict(frozen)
    interpret = Interpreter(torch, placed.sizes, starts.__getitem__)
    for definition in placed.method.tensors:
        value = starting_value(placed, definition, interpret)
        if value.shape != placed.shape(definition.dims):
            raise PeftError(f"the start of `{definition.name}` has another shape", code="S408")
        # Another start may read this one beside the site's weights, in their number type.
        starts[definition.name] = _cast(value, dtype)
        if definition.trainable and not initial:
            generator = generator_of(placed, f"noise.{definition.name}")
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value = value.double() + 0.5 * noise
        found[definition.name] = _cast(value, dtype).detach().requires_grad_(definition.trainable)
    return found


def starting_value(placed: PlacedMethod, definition: TensorDef, interpret: Interpreter) -> Tensor:
    """A tensor as it starts: drawn, or computed from weights and earlier tensors."""
    if definition.init.expression is None:
        return draws(placed, definition, interpret)(placed.case.seed)
    shape = placed.shape(definition.dims)
    value = interpret(definition.init.expression)
    if not isinstance(value, Tensor):
        value = torch.full(shape, float(value), dtype=torch.float64)
    spread: Tensor = value.expand(shape).clone() if value.dim() < len(shape) else value
    return spread


def draws(
    placed: PlacedMethod, definition: TensorDef, interpret: Interpreter
) -> Callable[[int], Tensor]:
    """What an initialiser makes of a tensor, for each seed, in float32.

    What no draw makes is as exact as float64: a constant, and that rows are orthonormal.
    """
    init, shape = definition.init, placed.shape(definition.dims)
    assert init.name is not None
    make = INITIALISERS[init.name].make
    keywords = {key: interpret(expr) for key, expr in init.keywords}
    args = tuple(interpret(expr) for expr in init.args)

    def drawn(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(tensor_seed(seed, definition.name))
        made: Tensor = make(InitCall(torch, shape, generator, keywords, args))
        if init.name == "constant":
            return torch.full(shape, float(args[0]), dtype=torch.float64)
        return _orthonormal(made) if init.name == "orthogonal" else made

    return drawn


def _orthonormal(value: Tensor) -> Tensor:
    """A matrix that is orthonormal up to float32, made so up to float64."""
    tall = value.shape[-2] >= value.shape[-1]
    q, r = torch.linalg.qr(value.double() if tall else value.double().mT)
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sgn().unsqueeze(-2)
    found: Tensor = q if tall else q.mT
    return found


def _dtype(placed: PlacedMethod) -> torch.dtype:
    found: torch.dtype = getattr(torch, placed.case.dtype)
    return found


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _value(placed: PlacedMethod, name: str, type_: Type) -> Tensor:
    shape = [dim.evaluate(_own_sizes(placed)) for dim in type_.dims]
    value = torch.randn(
        [*_lead(placed, type_), *shape], generator=generator_of(placed, name), dtype=torch.float64
    )
    if name == "W":
        # Small enough that a projection keeps sizes; a norm's gain is about 1.
        value = value / math.sqrt(shape[-1]) if len(shape) == 2 else 1 + 0.3 * value
    return value.to(_dtype(placed))


def _projection(placed: PlacedMethod, part: str) -> Tensor:
    """The weight that makes an attention product's keys or values, ``[kv_heads * d_head, d_x]``."""
    sizes = _own_sizes(placed)
    shape = [sizes["kv_heads"] * sizes["d_head"], sizes["d_x"]]
    generator = generator_of(placed, f"W_{part}")
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[1])
    return drawn.to(_dtype(placed))


def _own_sizes(placed: PlacedMethod) -> dict[str, int]:
    """The site's own sizes; sequential insertion says ``d_x`` of what it reads, the output."""
    return {**placed.sizes, **{key: placed.case.sizes[key] for key in ("d_x", "d_h")}}


def _lead(placed: PlacedMethod, type_: Type) -> list[int]:
    """The dimensions that stand in front of those that the language names."""
    sizes = placed.case.sizes
    lead: dict[Level, list[int]] = {
        Level.CONST: [],
        Level.EXAMPLE: [sizes["batch"]],
        Level.TOKEN: [sizes["batch"], sizes["tokens"]],
    }
    return lead[type_.level]

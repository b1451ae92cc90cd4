"""Initialisers: how a parameter or buffer starts, given its shape and a generator."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from peftlang.diagnostics import PeftError
from peftlang.ir.dims import Dim


@dataclass(frozen=True)
class InitCall:
    """What an initialiser sees.

    Attributes:
        t: The tensor library.
        shape: Sizes of the tensor.
        generator: A CPU generator seeded for this tensor.
        keywords: Named arguments.
        args: Positional arguments.
    """

    t: Any
    shape: tuple[int, ...]
    generator: Any
    keywords: Mapping[str, Any]
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Initialiser:
    """One initialiser: its name, call, sentence, and computation (float32 on the CPU).

    Attributes:
        value: "zeros" or "ones" when every element is that, for proofs.
        dims: True when positional arguments are dimensions (``random_entries(d_h, d_x)``).
        kind: Kind of number that it makes.
    """

    name: str
    signature: str
    doc: str
    make: Callable[[InitCall], Any]
    keywords: tuple[str, ...] = ()
    arity: tuple[int, int] = (0, 0)
    value: Literal["zeros", "ones", "other"] = "other"
    dims: bool = False
    kind: Literal["float", "int"] = "float"
    check: Callable[[tuple[Dim, ...], tuple[Dim, ...]], str | None] = lambda shape, dims: None


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out): the last dimension in, the one before it out; leading ones batch."""
    if len(shape) == 1:
        return shape[0], shape[0]
    return shape[-1], shape[-2]


def _in_copies(make: Callable[[InitCall], Any]) -> Callable[[InitCall], Any]:
    """``make`` with the keyword ``copies``: each row is drawn once, and stands that many times."""

    def made(call: InitCall) -> Any:
        copies = int(call.keywords.get("copies", 1))
        if copies < 2:
            return make(call)
        drawn = make(replace(call, shape=(call.shape[0] // copies, *call.shape[1:])))
        return drawn.repeat_interleave(copies, dim=0)

    return made


def _uniform(call: InitCall, low: float, high: float) -> Any:
    return call.t.empty(call.shape).uniform_(low, high, generator=call.generator)


def _normal(call: InitCall, mean: float, std: float) -> Any:
    return call.t.empty(call.shape).normal_(mean, std, generator=call.generator)


def _kaiming_uniform(call: InitCall) -> Any:
    a = call.keywords.get("a", math.sqrt(5))
    bound = math.sqrt(6 / ((1 + a * a) * _fans(call.shape)[0]))
    return _uniform(call, -bound, bound)


def _kaiming_normal(call: InitCall) -> Any:
    a = call.keywords.get("a", 0.0)
    return _normal(call, 0.0, math.sqrt(2 / ((1 + a * a) * _fans(call.shape)[0])))


def _xavier(call: InitCall, *, normal: bool) -> Any:
    gain = call.keywords.get("gain", 1.0)
    std = gain * math.sqrt(2 / sum(_fans(call.shape)))
    return _normal(call, 0.0, std) if normal else _uniform(call, -std * 3**0.5, std * 3**0.5)


def _orthogonal(call: InitCall) -> Any:
    """Rows or columns orthonormal, whichever are fewer, in each trailing matrix."""
    rows, columns = call.shape[-2:]
    tall = call.t.empty(*call.shape[:-2], max(rows, columns), min(rows, columns))
    q, r = call.t.linalg.qr(tall.normal_(generator=call.generator))
    q = q * call.t.diagonal(r, dim1=-2, dim2=-1).sgn().unsqueeze(-2)
    return q if rows >= columns else q.transpose(-1, -2).contiguous()


def _entries(call: InitCall) -> Any:
    """Distinct places of a matrix: the first n of a seeded random permutation."""
    rows, columns = call.args
    generator = call.generator
    if "seed" in call.keywords:
        generator = call.t.Generator().manual_seed(int(call.keywords["seed"]))
    flat = call.t.randperm(rows * columns, generator=generator)[: call.shape[0]]
    return call.t.stack([flat // columns, flat % columns], dim=1)


def _bernoulli(call: InitCall) -> Any:
    """1 with the given probability, else 0."""
    probability = float(call.args[0])
    if not 0 <= probability <= 1:
        raise PeftError(
            f"`bernoulli({probability:g})` is no probability",
            code="S408",
            help="give a number from 0 to 1",
        )
    return (_uniform(call, 0.0, 1.0) < probability).to(call.t.float32)


def _eye(call: InitCall) -> Any:
    return call.t.eye(*call.shape[-2:]).expand(call.shape).clone()


def _check_entries(shape: tuple[Dim, ...], dims: tuple[Dim, ...]) -> str | None:
    if len(shape) != 2 or shape[1] != Dim.of(2):
        return "random_entries makes pairs: the shape must be `[n, 2]`"
    return None


def _check_matrix(shape: tuple[Dim, ...], dims: tuple[Dim, ...]) -> str | None:
    return "the shape must be a matrix" if len(shape) < 2 else None


INITIALISERS: dict[str, Initialiser] = {
    entry.name: entry
    for entry in (
        Initialiser("zeros", "zeros", "All 0.", lambda c: c.t.zeros(c.shape), value="zeros"),
        Initialiser("ones", "ones", "All 1.", lambda c: c.t.ones(c.shape), value="ones"),
        Initialiser("constant", "constant(v)", "All v.",
                    lambda c: c.t.full(c.shape, float(c.args[0])), arity=(1, 1)),
        Initialiser("normal", "normal(mean = 0, std = 1, copies = 1)", "Normal; each row drawn "
                    "once and standing `copies` times, one after the other.",
                    _in_copies(lambda c: _normal(c, c.keywords.get("mean", 0.0),
                                                 c.keywords.get("std", 1.0))),
                    ("mean", "std", "copies")),
        Initialiser("uniform", "uniform(low = 0, high = 1)", "Uniform in [low, high).",
                    lambda c: _uniform(c, c.keywords.get("low", 0.0),
                                       c.keywords.get("high", 1.0)), ("low", "high")),
        Initialiser("bernoulli", "bernoulli(p)", "1 with probability p, else 0: a mask.",
                    _bernoulli, arity=(1, 1)),
        Initialiser("kaiming_uniform", "kaiming_uniform(a = sqrt(5), copies = 1)",
                    "Uniform with bound sqrt(6 / ((1 + a**2) fan_in)) (He et al. 2015); copies as "
                    "for `normal`.", _in_copies(_kaiming_uniform), ("a", "copies")),
        Initialiser("kaiming_normal", "kaiming_normal(a = 0)",
                    "Normal with variance 2 / ((1 + a**2) fan_in) (He et al. 2015).",
                    _kaiming_normal, ("a",)),
        Initialiser("xavier_uniform", "xavier_uniform(gain = 1)",
                    "Uniform with variance 2 gain**2 / (fan_in + fan_out) (Glorot 2010).",
                    lambda c: _xavier(c, normal=False), ("gain",)),
        Initialiser("xavier_normal", "xavier_normal(gain = 1)",
                    "Normal with variance 2 gain**2 / (fan_in + fan_out) (Glorot 2010).",
                    lambda c: _xavier(c, normal=True), ("gain",)),
        Initialiser("orthogonal", "orthogonal", "Rows or columns orthonormal, whichever are fewer.",
                    _orthogonal, check=_check_matrix),
        Initialiser("eye", "eye", "Ones on the diagonal of the last two dimensions, else 0.",
                    _eye, check=_check_matrix),
        Initialiser("random_entries", "random_entries(rows, columns, seed = s)",
                    "Places `[n, 2]` of a matrix, all distinct; the same seed gives the same.",
                    _entries, ("seed",), (2, 2), dims=True, kind="int", check=_check_entries),
    )
}  # fmt: skip
"""Every initialiser by name. Any other expression of `W`, `b` and dimensions is one too."""

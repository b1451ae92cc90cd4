"""Initialisers: how a parameter or buffer starts, given its shape and a generator."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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


LARGEST = 3.4028234663852886e38
"""The largest number of single precision, in which tensors start."""


@dataclass(frozen=True)
class Range:
    """The numbers that an argument may be, its bounds among them, and that in words."""

    words: str
    least: float = -LARGEST
    most: float = LARGEST
    whole: bool = False

    def holds(self, value: float) -> bool:
        return self.least <= value <= self.most and (not self.whole or value == int(value))


REAL = Range("a number of single precision, up to 3.4e38")
SPREAD = Range("from 0 to 1e30", 0.0, 1e30)
PROBABILITY = Range("a probability, from 0 to 1", 0.0, 1.0)
COUNT = Range("a whole number, at least 1", 1, 2**53, whole=True)
WHOLE = Range("a whole number", -(2**53), 2**53, whole=True)

Values = Mapping[str, float | None]
Shape = Sequence[int | None]


def _nothing_wrong(values: Values, shape: Shape) -> str | None:
    return None


@dataclass(frozen=True)
class Initialiser:
    """One initialiser: its name, call, sentence, and computation (float32 on the CPU).

    Attributes:
        compute: Makes the tensor; its keywords are complete.
        operands: Arguments by place, all of which must be given, and what they may be.
        keywords: Arguments by name, and what they may be.
        defaults: Keywords that are not given.
        every: The number that every element is, with these arguments, where it is one; for proofs.
        full: Whether no row of the tensor is all zeros, almost surely.
        dims: True when positional arguments are dimensions (``random_entries(d_h, d_x)``).
        kind: Kind of number that it makes.
        check: What is wrong with a shape, its dimensions named.
        together: What is wrong with arguments, each in its range, and a shape together; None
            stands for what is not known.
    """

    name: str
    signature: str
    doc: str
    compute: Callable[[InitCall], Any]
    operands: Mapping[str, Range] = field(default_factory=dict)
    keywords: Mapping[str, Range] = field(default_factory=dict)
    defaults: Mapping[str, float] = field(default_factory=dict)
    every: Callable[[Values], float | None] = lambda values: None
    full: bool = False
    dims: bool = False
    kind: Literal["float", "int"] = "float"
    check: Callable[[tuple[Dim, ...]], str | None] = lambda shape: None
    together: Callable[[Values, Shape], str | None] = _nothing_wrong

    @property
    def arity(self) -> tuple[int, int]:
        return len(self.operands), len(self.operands)

    def wrong_argument(self, name: str, value: float) -> str | None:
        """What is wrong with one argument by itself."""
        allowed = self.operands.get(name) or self.keywords[name]
        if allowed.holds(value):
            return None
        return f"`{name}` of `{self.name}` is {allowed.words}, and this is {value:g}"

    def wrong(self, values: Values, shape: Shape) -> str | None:
        """What is wrong with arguments, those by place by their names, as far as they are known.

        Args:
            values: The arguments that are given; None for one that is not known yet.
            shape: Sizes of the tensor; None for one that is not known yet.
        """
        for name, value in values.items():
            fault = None if value is None else self.wrong_argument(name, value)
            if fault is not None:
                return fault
        return self.together({**self.defaults, **values}, shape)

    def make(self, call: InitCall) -> Any:
        """The tensor as it starts.

        Raises:
            PeftError: S408, an argument is out of its range at this site.
        """
        args, keywords = tuple(map(float, call.args)), _floats(call.keywords)
        fault = self.wrong({**dict(zip(self.operands, args, strict=True)), **keywords}, call.shape)
        if fault is not None:
            raise PeftError(fault, code="S408", help=f"it is called as `{self.signature}`")
        return self.compute(replace(call, args=args, keywords={**self.defaults, **keywords}))


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that may be computed from a weight, and so be tensors."""
    return {name: float(value) for name, value in values.items()}


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out): the last dimension in, the one before it out; leading ones batch."""
    if len(shape) == 1:
        return shape[0], shape[0]
    return shape[-1], shape[-2]


def _in_copies(make: Callable[[InitCall], Any]) -> Callable[[InitCall], Any]:
    """``make`` with the keyword ``copies``: each row is drawn once, and stands that many times."""

    def made(call: InitCall) -> Any:
        copies = int(call.keywords["copies"])
        if copies == 1 or not call.shape:
            return make(call)
        rows, *rest = call.shape
        if rows % copies:
            message = f"`copies = {copies}` does not divide {rows} rows"
            raise PeftError(message, code="S408", help=f"choose a multiple of {copies}")
        drawn = make(replace(call, shape=(rows // copies, *rest)))
        return drawn.repeat_interleave(copies, dim=0)

    return made


def _uniform(call: InitCall, low: float, high: float) -> Any:
    return call.t.empty(call.shape).uniform_(low, high, generator=call.generator)


def _normal(call: InitCall, mean: float, std: float) -> Any:
    return call.t.empty(call.shape).normal_(mean, std, generator=call.generator)


def _kaiming_uniform(call: InitCall) -> Any:
    a = call.keywords["a"]
    bound = math.sqrt(6 / ((1 + a * a) * _fans(call.shape)[0]))
    return _uniform(call, -bound, bound)


def _kaiming_normal(call: InitCall) -> Any:
    a = call.keywords["a"]
    return _normal(call, 0.0, math.sqrt(2 / ((1 + a * a) * _fans(call.shape)[0])))


def _xavier(call: InitCall, *, normal: bool) -> Any:
    std = call.keywords["gain"] * math.sqrt(2 / sum(_fans(call.shape)))
    return _normal(call, 0.0, std) if normal else _uniform(call, -std * 3**0.5, std * 3**0.5)


def _in_order(values: Values, shape: Shape) -> str | None:
    low, high = values["low"], values["high"]
    if low is None or high is None or 0 <= high - low <= LARGEST:
        return None
    return f"`uniform` draws from `low` to `high`, and these are {low:g} and {high:g}"


def _orthogonal(call: InitCall) -> Any:
    """Rows or columns orthonormal, whichever are fewer, in each trailing matrix."""
    rows, columns = call.shape[-2:]
    tall = call.t.empty(*call.shape[:-2], max(rows, columns), min(rows, columns))
    q, r = call.t.linalg.qr(tall.normal_(generator=call.generator))
    q = q * call.t.diagonal(r, dim1=-2, dim2=-1).sgn().unsqueeze(-2)
    return q if rows >= columns else q.transpose(-1, -2).contiguous()


def _entries(call: InitCall) -> Any:
    """Distinct places of a matrix: the first n of a seeded random permutation."""
    rows, columns = map(int, call.args)
    generator = call.generator
    if "seed" in call.keywords:
        generator = call.t.Generator().manual_seed(int(call.keywords["seed"]))
    flat = call.t.randperm(rows * columns, generator=generator)[: call.shape[0]]
    return call.t.stack([flat // columns, flat % columns], dim=1)


def _places_enough(values: Values, shape: Shape) -> str | None:
    rows, columns, wanted = values["rows"], values["columns"], shape[0]
    if rows is None or columns is None or wanted is None or wanted <= rows * columns:
        return None
    return f"`random_entries` takes {wanted} of the {rows * columns:g} places of a matrix"


def _bernoulli(call: InitCall) -> Any:
    """1 with the given probability, else 0."""
    return (_uniform(call, 0.0, 1.0) < call.args[0]).to(call.t.float32)


def _eye(call: InitCall) -> Any:
    return call.t.eye(*call.shape[-2:]).expand(call.shape).clone()


def _check_entries(shape: tuple[Dim, ...]) -> str | None:
    if len(shape) != 2 or shape[1] != Dim.of(2):
        return "random_entries makes pairs: the shape must be `[n, 2]`"
    return None


def _check_fans(shape: tuple[Dim, ...]) -> str | None:
    return None if shape else "the variance depends on how many numbers go in"


def _check_matrix(shape: tuple[Dim, ...]) -> str | None:
    return "the shape must be a matrix" if len(shape) < 2 else None


_INITIALISERS = (
    Initialiser("zeros", "zeros", "All 0.", lambda c: c.t.zeros(c.shape), every=lambda v: 0.0),
    Initialiser("ones", "ones", "All 1.", lambda c: c.t.ones(c.shape), every=lambda v: 1.0),
    Initialiser(
        "constant",
        "constant(v)",
        "All v.",
        lambda c: c.t.full(c.shape, c.args[0]),
        operands={"v": REAL},
    ),
    Initialiser(
        "normal",
        "normal(mean = 0, std = 1, copies = 1)",
        "Normal; each row drawn once and standing `copies` times, one after the other.",
        _in_copies(lambda c: _normal(c, c.keywords["mean"], c.keywords["std"])),
        keywords={"mean": REAL, "std": SPREAD, "copies": COUNT},
        defaults={"mean": 0.0, "std": 1.0, "copies": 1},
        every=lambda v: v["mean"] if v["std"] == 0 else None,
        full=True,
    ),
    Initialiser(
        "uniform",
        "uniform(low = 0, high = 1)",
        "Uniform in [low, high).",
        lambda c: _uniform(c, c.keywords["low"], c.keywords["high"]),
        keywords={"low": REAL, "high": REAL},
        defaults={"low": 0.0, "high": 1.0},
        every=lambda v: v["low"] if v["low"] == v["high"] else None,
        full=True,
        together=_in_order,
    ),
    Initialiser(
        "bernoulli",
        "bernoulli(p)",
        "1 with probability p, else 0: a mask.",
        _bernoulli,
        operands={"p": PROBABILITY},
        every=lambda v: v["p"] if v["p"] in (0, 1) else None,
    ),
    Initialiser(
        "kaiming_uniform",
        "kaiming_uniform(a = sqrt(5), copies = 1)",
        "Uniform with bound sqrt(6 / ((1 + a**2) fan_in)) (He et al. 2015); copies as for "
        "`normal`.",
        _in_copies(_kaiming_uniform),
        keywords={"a": REAL, "copies": COUNT},
        defaults={"a": math.sqrt(5), "copies": 1},
        full=True,
        check=_check_fans,
    ),
    Initialiser(
        "kaiming_normal",
        "kaiming_normal(a = 0)",
        "Normal with variance 2 / ((1 + a**2) fan_in) (He et al. 2015).",
        _kaiming_normal,
        keywords={"a": REAL},
        defaults={"a": 0.0},
        full=True,
        check=_check_fans,
    ),
    Initialiser(
        "xavier_uniform",
        "xavier_uniform(gain = 1)",
        "Uniform with variance 2 gain**2 / (fan_in + fan_out) (Glorot 2010).",
        lambda c: _xavier(c, normal=False),
        keywords={"gain": SPREAD},
        defaults={"gain": 1.0},
        every=lambda v: 0.0 if v["gain"] == 0 else None,
        full=True,
        check=_check_fans,
    ),
    Initialiser(
        "xavier_normal",
        "xavier_normal(gain = 1)",
        "Normal with variance 2 gain**2 / (fan_in + fan_out) (Glorot 2010).",
        lambda c: _xavier(c, normal=True),
        keywords={"gain": SPREAD},
        defaults={"gain": 1.0},
        every=lambda v: 0.0 if v["gain"] == 0 else None,
        full=True,
        check=_check_fans,
    ),
    Initialiser(
        "orthogonal",
        "orthogonal",
        "Rows or columns orthonormal, whichever are fewer.",
        _orthogonal,
        full=True,
        check=_check_matrix,
    ),
    Initialiser(
        "eye",
        "eye",
        "Ones on the diagonal of the last two dimensions, else 0.",
        _eye,
        check=_check_matrix,
    ),
    Initialiser(
        "random_entries",
        "random_entries(rows, columns, seed = s)",
        "Places `[n, 2]` of a matrix, all distinct; the same seed gives the same.",
        _entries,
        operands={"rows": COUNT, "columns": COUNT},
        keywords={"seed": WHOLE},
        dims=True,
        kind="int",
        check=_check_entries,
        together=_places_enough,
    ),
)

INITIALISERS: dict[str, Initialiser] = {entry.name: entry for entry in _INITIALISERS}
"""Every initialiser by name. Any other expression of `W`, `b` and dimensions is one too."""

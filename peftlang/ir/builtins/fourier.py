"""Two-dimensional Fourier transforms.

The transform of a matrix is the matrix between two transforms of vectors, so a sparse spectrum is
never written out: ``ifft2(M) @ x`` is ``ifft(M @ ifft(x))``.
"""

from collections.abc import Callable
from typing import Any

from peftlang.ir.builtins.operands import matrix, transform_work
from peftlang.ir.builtins.table import Builtin, Evaluation, Fast, Signature, Size
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply
from peftlang.ir.types import Type


def _real(call: Signature) -> Type:
    have = call.tensor()
    return Type(have.dims, have.level)


def _complex(call: Signature) -> Type:
    return Type(matrix(call).dims, call.types[0].level, "complex")


def _between(which: str) -> Callable[[Evaluation, Any, bool], Any]:
    """The operand between two transforms ``torch.fft.<which>``, each its own transpose."""

    def apply(call: Evaluation, vectors: Any, transposed: bool) -> Any:
        transform = getattr(call.t.fft, which)
        return transform(_within(call, transform(call.precise(vectors)), transposed))

    return apply


def _within(call: Evaluation, vectors: Any, transposed: bool) -> Any:
    """The operand times complex vectors; a matrix of real numbers takes their parts apart."""
    t, times = call.t, call.args[0]
    if call.types[0].kind == "complex":
        return times(vectors, transposed)
    parts = times(t.stack([t.real(vectors), t.imag(vectors)], dim=0), transposed)
    return t.complex(parts.select(0, 0), parts.select(0, 1))


def _between_cost(call: Apply, size: Size) -> tuple[int, int]:
    return 0, sum(2 * transform_work(size(d)) for d in call.type.dims)


FOURIER = (
    Builtin("real", "real(z)", "Real part.", (1, 1), _real, lambda c: c.t.real(c.args[0]),
            linear=(0,), zero="all", cost=lambda c: Dim.of(0),
            fast=Fast(lambda c, vectors, turned: c.t.real(c.args[0](vectors, turned)),
                      lambda c, size: (0, 0), through=True)),
    Builtin("ifft2", "ifft2(M)", "Two-dimensional inverse discrete Fourier transform, scaled by "
            "1 / (rows * columns).", (1, 1), _complex,
            lambda c: c.t.fft.ifft2(c.precise(c.args[0])), linear=(0,), zero="all",
            single_precision=True, fast=Fast(_between("ifft"), _between_cost, through=True)),
    Builtin("fft2", "fft2(M)", "Two-dimensional discrete Fourier transform.", (1, 1), _complex,
            lambda c: c.t.fft.fft2(c.precise(c.args[0])), linear=(0,), zero="all",
            single_precision=True, fast=Fast(_between("fft"), _between_cost, through=True)),
)  # fmt: skip

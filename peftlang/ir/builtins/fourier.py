"""Two-dimensional Fourier transforms."""

from peftlang.ir.builtins.operands import matrix
from peftlang.ir.builtins.table import Builtin, Signature
from peftlang.ir.dims import Dim
from peftlang.ir.types import Type


def _real(call: Signature) -> Type:
    return Type(call.types[0].dims, call.types[0].level, "float")


def _complex(call: Signature) -> Type:
    return Type(matrix(call).dims, call.types[0].level, "complex")


FOURIER = (
    Builtin("real", "real(z)", "Real part.", (1, 1), _real, lambda c: c.t.real(c.args[0]),
            linear=(0,), zero="all", cost=lambda c: Dim.of(0)),
    Builtin("ifft2", "ifft2(M)", "Two-dimensional inverse discrete Fourier transform, scaled by "
            "1 / (rows * columns).", (1, 1), _complex,
            lambda c: c.t.fft.ifft2(c.precise(c.args[0])), linear=(0,), zero="all",
            single_precision=True),
    Builtin("fft2", "fft2(M)", "Two-dimensional discrete Fourier transform.", (1, 1), _complex,
            lambda c: c.t.fft.fft2(c.precise(c.args[0])), linear=(0,), zero="all",
            single_precision=True),
)  # fmt: skip

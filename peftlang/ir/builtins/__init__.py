"""The one table of the language's functions."""

from peftlang.ir.builtins.arithmetic import ARITHMETIC
from peftlang.ir.builtins.attention import ATTENTION
from peftlang.ir.builtins.blocks import BLOCKS
from peftlang.ir.builtins.decompositions import DECOMPOSITIONS
from peftlang.ir.builtins.fourier import FOURIER
from peftlang.ir.builtins.orthogonal import ORTHOGONAL
from peftlang.ir.builtins.patterns import PATTERNS
from peftlang.ir.builtins.routing import ROUTING
from peftlang.ir.builtins.sequence import SEQUENCE
from peftlang.ir.builtins.table import Builtin, Evaluation, Signature, as_dim
from peftlang.ir.builtins.tensors import TENSORS
from peftlang.ir.builtins.toeplitz import TOEPLITZ
from peftlang.ir.builtins.tokens import TOKENS
from peftlang.ir.builtins.training import TRAINING

_STRUCTURED = (*FOURIER, *PATTERNS, *BLOCKS, *TOEPLITZ, *ORTHOGONAL, *DECOMPOSITIONS)

BUILTINS: dict[str, Builtin] = {
    entry.name: entry
    for entry in (
        *ARITHMETIC,
        *TENSORS,
        *_STRUCTURED,
        *ATTENTION,
        *TOKENS,
        *SEQUENCE,
        *ROUTING,
        *TRAINING,
    )
}
"""Every function and operator by the name that a spec calls it by."""

__all__ = ["BUILTINS", "Builtin", "Evaluation", "Signature", "as_dim"]

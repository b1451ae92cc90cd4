"""What type rules of matrices ask of their operands, and what their costs have in common."""

from math import log2

from peftlang.ir.builtins.table import Signature
from peftlang.ir.types import Level, Type, TypeFact


def constant(call: Signature, index: int = 0) -> Type:
    """The type of an operand that is the same for every input."""
    have = call.inexact(index)
    if have.level is not Level.CONST:
        raise TypeFact("T209", "this is not the same for every input, as it has to be here", index)
    return have


def shaped(call: Signature, index: int, rank: int, wanted: str) -> Type:
    """The type of a constant operand with so many dimensions, ``wanted`` in words."""
    have = constant(call, index)
    if len(have.dims) != rank:
        raise TypeFact("T209", f"{wanted} wanted, and this is {have}", index)
    return have


def matrix(call: Signature, index: int = 0) -> Type:
    """The type of an operand whose last two dimensions are a matrix."""
    have = call.inexact(index)
    if len(have.dims) < 2:
        raise TypeFact("T209", f"a matrix is wanted, and this is {have}", index)
    return have


def square(call: Signature) -> Type:
    """The type of the first operand, whose last two dimensions are equal."""
    have = matrix(call)
    if have.dims[-1] != have.dims[-2]:
        raise TypeFact("T209", f"a square matrix is wanted, and this is {have}", 0)
    return have


def transform_work(length: int) -> int:
    """Operations of the Fourier transform of so many real numbers; half those of complex ones."""
    return int(2.5 * length * log2(max(length, 2)))

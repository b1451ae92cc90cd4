"""Sizes from shapes: which whole numbers make a tensor's declared dimensions its real ones."""

from collections.abc import Iterable, Mapping

from peftlang.ir.dims import Dim, Indivisible

Shaped = tuple[str, tuple[Dim, ...], tuple[int, ...]]
"""A tensor's name, its declared dimensions, and its shape."""


class Misfit(ValueError):
    """Shapes that no sizes explain: the tensor's name, what was declared, and the shape."""

    def __init__(self, name: str, dims: tuple[Dim, ...], shape: tuple[int, ...]) -> None:
        self.name, self.dims, self.shape = name, dims, shape
        declared = ", ".join(map(str, dims))
        super().__init__(f"`{name}` is {list(shape)}, which is not [{declared}]")


def infer(tensors: Iterable[Shaped], known: Mapping[str, int]) -> dict[str, int]:
    """The size of every symbol, the known ones included.

    Args:
        tensors: Declared dimensions beside real shapes.
        known: Sizes of the site.

    Raises:
        Misfit: some tensor has another number of dimensions, or no size fits.
    """
    tensors = list(tensors)
    sizes = dict(known)
    for name, dims, shape in tensors:
        if len(dims) != len(shape):
            raise Misfit(name, dims, shape)
    pairs = [pair for _, dims, shape in tensors for pair in zip(dims, shape, strict=True)]
    for step in (_bind, _solve):
        while sum(step(pair, sizes) for pair in pairs):
            pass
    for name, dims, shape in tensors:
        if any(_value(dim, sizes) != size for dim, size in zip(dims, shape, strict=True)):
            raise Misfit(name, dims, shape)
    return sizes


def _bind(pair: tuple[Dim, int], sizes: dict[str, int]) -> bool:
    dim, size = pair
    if len(dim.symbols) == 1 and dim == Dim.of(min(dim.symbols)) and str(dim) not in sizes:
        sizes[str(dim)] = size
        return True
    return False


def _solve(pair: tuple[Dim, int], sizes: dict[str, int]) -> bool:
    """A symbol that stands inside a quotient or a sum: the first whole number that fits."""
    dim, size = pair
    missing = dim.symbols - set(sizes)
    if len(missing) != 1:
        return False
    symbol = min(missing)
    largest = max([size, *(sizes[s] for s in dim.symbols & set(sizes))])
    for number in range(1, largest + 1):
        if _value(dim, {**sizes, symbol: number}) == size:
            sizes[symbol] = number
            return True
    return False


def _value(dim: Dim, sizes: Mapping[str, int]) -> int | None:
    try:
        return dim.evaluate(sizes)
    except (Indivisible, KeyError, ZeroDivisionError):
        return None

"""Recording while somebody else transforms, traces or counts what the model computes.

Code for a region is made when the region is first called, which may be inside of
`torch.func.vmap`, `torch.export`, `torch.jit.trace`, or a mode that counts operations. What is
computed to make it is no part of the model: none of them may see it, and tensors that belong to
them (a batch of a batch, a stand-in with a symbolic size) have to be met by plain ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes

MADE_UP = 7
"""Stands for a size that nothing is known of."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """No mode, transformation or tracer sees what is computed inside of the ``with`` block."""
    above = torch._C._len_torch_function_stack()
    modes = [_pop_mode() for _ in range(above)]
    try:
        with untraced(), temporarily_clear_interpreter_stack(), _disable_current_modes():
            yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


@contextmanager
def untraced() -> Iterator[None]:
    """`torch.jit.trace` records nothing inside of the block: there sizes are numbers."""
    tracing: Any = torch._C
    state = tracing._get_tracing_state()
    if state is None:
        yield
        return
    tracing._set_tracing_state(None)
    try:
        yield
    finally:
        tracing._set_tracing_state(state)


def sizes_of(tensor: Tensor) -> tuple[int, ...]:
    """A tensor's sizes as numbers: a symbolic one as it was when it was traced."""
    return tuple(_number(size) for size in tensor.shape)


def _number(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else MADE_UP


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor is more than a stand-in, and nobody's to transform."""
    return not (
        tensor.is_meta
        or isinstance(tensor, FakeTensor | FunctionalTensor)
        or torch._is_functional_tensor(tensor)
        or _functorch.is_functorch_wrapped_tensor(tensor)
    )

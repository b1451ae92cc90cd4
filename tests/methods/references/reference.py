"""What a reference is."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tests.methods.references.anatomy import Anatomy
from tests.methods.references.weights import Weights

Args = dict[str, Any]
Tensors = dict[str, Tensor]
Reference = Callable[[nn.Module, Anatomy, Weights, Args], None]
"""Changes a plain copy of the base model in place: model, anatomy, tensors, arguments."""

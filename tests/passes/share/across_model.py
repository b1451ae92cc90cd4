"""One shift at two places."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import after, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    b = tensors["shift.shared.b"]
    for path in ("body.0.mixing.wants", "body.1.mixing.mix"):
        after(model, path, lambda h: h + b)
    return output(model(**inputs))

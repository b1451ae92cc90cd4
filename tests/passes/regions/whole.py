"""An image's tower that reads the text's, which the model runs behind it."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import after, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    U, kept = tensors["look.vision_model.encoder.layers.0.block.U"], []

    def keep(h: Tensor) -> Tensor:
        kept.append(h)
        return h

    after(model, "text_model.encoder.layers.0", keep)
    model(**inputs)
    read = kept[0].sum(1, keepdim=True) @ U.mT
    after(model, "vision_model.encoder.layers.0", lambda h: h + read)
    return output(model(**inputs))

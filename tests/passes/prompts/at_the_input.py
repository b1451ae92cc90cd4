"""Soft tokens before the embedded ones; what is said of them is not given to the caller."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.passes.plain import output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    (P,) = tensors.values()
    own = model.get_submodule("model.embed_tokens")(inputs["input_ids"])
    embeds = torch.cat([P.expand(len(own), -1, -1), own], dim=1)
    return output(model(inputs_embeds=embeds))[:, len(P) :]

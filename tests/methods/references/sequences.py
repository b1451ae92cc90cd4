"""Methods that change the input sequence, or train what the base has."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.methods.references.anatomy import Anatomy
from tests.methods.references.reference import Args
from tests.methods.references.weights import Weights


def _trained(model: nn.Module, weights: Weights, name: str) -> None:
    """Put the trained copy of a base parameter in its place, wherever the model holds it."""
    original = dict(model.named_parameters())[name]
    for module in model.modules():
        for own, held in list(module._parameters.items()):
            if held is original:
                del module._parameters[own]
                setattr(module, own, weights.trained(name))


def bitfit(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for name, _ in list(model.named_parameters()):
        if name.split(".")[-1] == "bias":
            _trained(model, weights, name)


def norm_tuning(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for path in anatomy.norms:
        for own, _ in list(model.get_submodule(path).named_parameters()):
            _trained(model, weights, f"{path}.{own}")


def prompt_tuning(model: Any, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    """Embeddings and a mask that are l longer, made by the caller; the prompt's outputs cut off."""
    prompt = weights.alone("prompt")["P"]
    table, forward = model.get_input_embeddings(), model.forward
    two_sided = model.config.is_encoder_decoder

    def longer(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        own = table(input_ids)
        embeds = torch.cat([prompt.expand(len(own), -1, -1), own], dim=1)
        ones = attention_mask.new_ones(len(own), len(prompt))
        if not two_sided:
            labels = torch.cat([torch.full_like(ones, -100), labels], dim=1)
        mask = torch.cat([ones, attention_mask], dim=1)
        out = forward(inputs_embeds=embeds, attention_mask=mask, labels=labels)
        if not two_sided:
            out.logits = out.logits[:, len(prompt) :]
        return out

    model.forward = longer

"""A reference for soft prompts: virtual tokens at the end of the embedding table, in plain ids."""

from typing import Any

import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build

LENGTH, TOKENS, VOCAB = 4, 7, 160
BOTH_SIDES = {"tiny-t5", "tiny-bart"}


def ids(*, batch: int = 2, tokens: int = TOKENS, seed: int = 1) -> Tensor:
    return torch.randint(3, VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def left_padded() -> tuple[Tensor, Tensor]:
    """Two rows of ids, the second with three tokens of padding in front, and their mask."""
    rows, mask = ids(), torch.ones(2, TOKENS, dtype=torch.long)
    rows[1, :3], mask[1, :3] = 0, 0
    return rows, mask


def prompted(preset: str) -> nn.Module:
    """This preset with a prompt."""
    return peftlang.compile(build(preset).eval(), "prompt_tuning", l=LENGTH)


def prompt_of(model: nn.Module, name: str = "default") -> nn.Parameter:
    (prompt,) = peftlang.adapters(model)[name].parameters().values()
    return prompt


def extended(preset: str, prompt: Tensor) -> Any:
    """A plain preset whose tables of token embeddings have the prompt at their end."""
    model: Any = build(preset)
    head = model.get_output_embeddings()
    if head is not None:
        head.weight = nn.Parameter(head.weight.detach().clone())
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings == VOCAB:
            table = torch.cat([module.weight.detach(), prompt.detach()])
            module.weight = nn.Parameter(table)
    return model


def with_virtual(rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask with the virtual tokens in front, for the reference."""
    virtual = torch.arange(VOCAB, VOCAB + LENGTH).expand(len(rows), LENGTH)
    return torch.cat([virtual, rows], 1), torch.cat([torch.ones_like(virtual), mask], 1)

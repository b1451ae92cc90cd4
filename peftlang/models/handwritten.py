"""Two tiny models that are plain `torch.nn` modules, known to no library of architectures."""

import torch
from torch import Tensor, nn


class TorchEncoder(nn.Module):
    """Token classifier on `torch.nn.TransformerEncoder`. Input: token ids ``[batch, tokens]``."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(160, 32)
        layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=88, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.classifier = nn.Linear(32, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.classifier(self.encoder(self.tokens(input_ids)))  # type: ignore[no-any-return]

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """What `forward` takes, for a look at the graph."""
        return {"input_ids": torch.zeros(2, 7, dtype=torch.long)}


class SelfAttention(nn.Module):
    """Attention spelled out: scaled products, softmax, products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wants = nn.Linear(width, width)
        self.offers = nn.Linear(width, width)
        self.carries = nn.Linear(width, width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            project(x).reshape(batch, tokens, self.heads, -1).transpose(1, 2)
            for project in (self.wants, self.offers, self.carries)
        )
        weights = torch.softmax(q @ k.mT / (width // self.heads) ** 0.5, dim=-1)
        return self.mix((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A pre-norm layer: attention, then an MLP."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.before_mixing = nn.LayerNorm(width)
        self.mixing = SelfAttention(width, heads)
        self.before_thinking = nn.LayerNorm(width)
        self.thinking = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(0.1), nn.Linear(inner, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixing(self.before_mixing(x))
        return x + self.thinking(self.before_thinking(x))  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """Vectors in, class scores out. Input: ``[batch, tokens, 20]``, float."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(20, 32)
        self.body = nn.ModuleList(Layer(32, heads=4, inner=88) for _ in range(2))
        self.last_norm = nn.LayerNorm(32)
        self.scores = nn.Linear(32, 3)

    def forward(self, features: Tensor) -> Tensor:
        x = self.lift(features)
        for layer in self.body:
            x = layer(x)
        return self.scores(self.last_norm(x).mean(dim=1))  # type: ignore[no-any-return]

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """What `forward` takes, for a look at the graph."""
        return {"features": torch.zeros(2, 7, 20)}

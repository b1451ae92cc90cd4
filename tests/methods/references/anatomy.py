"""Where the parts of the tiny presets are, by module name and by hand.

Nothing here is derived from a graph: that is what makes it a check of what the compiler derives.
"""

from dataclasses import dataclass, replace

Rows = tuple[int, int]


@dataclass(frozen=True)
class Projection:
    """One linear map: its module, its rows of a fused one, and how the weight is stored."""

    path: str
    rows: Rows | None = None
    transposed: bool = False


@dataclass(frozen=True)
class Attention:
    """An attention sub-layer; `core` is the module that calls the attention function."""

    core: str
    q: Projection
    k: Projection
    v: Projection
    o: Projection


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward sub-layer; `stream` is a module whose input is the residual stream."""

    up: Projection
    down: Projection
    stream: str
    gate: Projection | None = None


@dataclass(frozen=True)
class Layer:
    """A layer: the module whose output is its own, and the sub-layers."""

    index: int
    block: str
    attn: Attention
    ffn: FeedForward
    cross: Attention | None = None
    side: str | None = None

    def attentions(self) -> list[tuple[str, Attention]]:
        found = [("attn", self.attn)]
        return found + ([("cross_attn", self.cross)] if self.cross else [])


@dataclass(frozen=True)
class Anatomy:
    """A preset's layers, its norms, and its projections other than the head."""

    layers: tuple[Layer, ...]
    norms: tuple[str, ...]
    heads: tuple[str, ...]
    extra: tuple[Projection, ...] = ()
    """Projections outside the layers, such as a pooler."""
    through: tuple[str, ...] = ()
    """What an image's tokens come from, and what reads them after the last layer."""

    def linears(self) -> list[Projection]:
        found: list[Projection] = []
        for layer in self.layers:
            for _, attn in layer.attentions():
                found += [attn.q, attn.k, attn.v, attn.o]
            gate = [layer.ffn.gate] if layer.ffn.gate else []
            found += [layer.ffn.up, *gate, layer.ffn.down]
        whole = {p.path: replace(p, rows=None) for p in [*found, *self.extra]}
        return list(whole.values())


def _separate(core: str, names: tuple[str, str, str, str], out: str | None = None) -> Attention:
    q, k, v, o = (Projection(f"{core}.{name}") for name in names)
    return Attention(core, q, k, v, Projection(out) if out else o)


def _llama_layer(index: int) -> Layer:
    at = f"model.layers.{index}"
    return Layer(
        index,
        at,
        _separate(f"{at}.self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
        FeedForward(
            Projection(f"{at}.mlp.up_proj"),
            Projection(f"{at}.mlp.down_proj"),
            f"{at}.post_attention_layernorm",
            Projection(f"{at}.mlp.gate_proj"),
        ),
    )


def _gpt2_layer(index: int) -> Layer:
    at = f"transformer.h.{index}"
    q, k, v = (Projection(f"{at}.attn.c_attn", (n * 32, n * 32 + 32), True) for n in range(3))
    return Layer(
        index,
        at,
        Attention(f"{at}.attn", q, k, v, Projection(f"{at}.attn.c_proj", transposed=True)),
        FeedForward(
            Projection(f"{at}.mlp.c_fc", transposed=True),
            Projection(f"{at}.mlp.c_proj", transposed=True),
            f"{at}.ln_2",
        ),
    )


def _bert_layer(index: int) -> Layer:
    at = f"bert.encoder.layer.{index}"
    names = ("query", "key", "value", "")
    return Layer(
        index,
        at,
        _separate(f"{at}.attention.self", names, f"{at}.attention.output.dense"),
        FeedForward(
            Projection(f"{at}.intermediate.dense"),
            Projection(f"{at}.output.dense"),
            f"{at}.intermediate.dense",
        ),
    )


def _t5_layer(side: str, index: int) -> Layer:
    at = f"{side}.block.{index}"
    names = ("q", "k", "v", "o")
    decoder = side == "decoder"
    last = f"{at}.layer.{2 if decoder else 1}"
    return Layer(
        index,
        at,
        _separate(f"{at}.layer.0.SelfAttention", names),
        FeedForward(
            Projection(f"{last}.DenseReluDense.wi_1"),
            Projection(f"{last}.DenseReluDense.wo"),
            f"{last}.layer_norm",
            Projection(f"{last}.DenseReluDense.wi_0"),
        ),
        _separate(f"{at}.layer.1.EncDecAttention", names) if decoder else None,
        side,
    )


def _bart_layer(side: str, index: int) -> Layer:
    at = f"model.{side}.layers.{index}"
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return Layer(
        index,
        at,
        _separate(f"{at}.self_attn", names),
        FeedForward(Projection(f"{at}.fc1"), Projection(f"{at}.fc2"), f"{at}.fc1"),
        _separate(f"{at}.encoder_attn", names) if side == "decoder" else None,
        side,
    )


def _vit_layer(index: int) -> Layer:
    at = f"vit.layers.{index}"
    return Layer(
        index,
        at,
        _separate(f"{at}.attention", ("q_proj", "k_proj", "v_proj", "o_proj")),
        FeedForward(
            Projection(f"{at}.mlp.fc1"), Projection(f"{at}.mlp.fc2"), f"{at}.layernorm_after"
        ),
    )


def _each(pattern: str, *names: str) -> tuple[str, ...]:
    return tuple(pattern.format(index, name) for index in (0, 1) for name in names)


_BART_NORMS = ("self_attn_layer_norm", "final_layer_norm")

ANATOMIES: dict[str, Anatomy] = {
    "tiny-llama": Anatomy(
        tuple(map(_llama_layer, (0, 1))),
        (
            *_each("model.layers.{}.{}", "input_layernorm", "post_attention_layernorm"),
            "model.norm",
        ),
        ("lm_head",),
    ),
    "tiny-gpt2": Anatomy(
        tuple(map(_gpt2_layer, (0, 1))),
        (*_each("transformer.h.{}.{}", "ln_1", "ln_2"), "transformer.ln_f"),
        ("lm_head",),
    ),
    "tiny-bert": Anatomy(
        tuple(map(_bert_layer, (0, 1))),
        (
            "bert.embeddings.LayerNorm",
            *_each("bert.encoder.layer.{}.{}.LayerNorm", "attention.output", "output"),
            "cls.predictions.transform.LayerNorm",
        ),
        ("cls.predictions.decoder",),
        (Projection("cls.predictions.transform.dense"),),
    ),
    "tiny-t5": Anatomy(
        tuple(_t5_layer(side, index) for side in ("encoder", "decoder") for index in (0, 1)),
        (
            *_each("encoder.block.{}.layer.{}.layer_norm", "0", "1"),
            *_each("decoder.block.{}.layer.{}.layer_norm", "0", "1", "2"),
            "encoder.final_layer_norm",
            "decoder.final_layer_norm",
        ),
        ("lm_head",),
    ),
    "tiny-bart": Anatomy(
        tuple(_bart_layer(side, index) for side in ("encoder", "decoder") for index in (0, 1)),
        (
            *_each("model.encoder.layers.{}.{}", *_BART_NORMS),
            *_each("model.decoder.layers.{}.{}", "encoder_attn_layer_norm", *_BART_NORMS),
            "model.encoder.layernorm_embedding",
            "model.decoder.layernorm_embedding",
        ),
        ("lm_head",),
    ),
    "tiny-vit": Anatomy(
        tuple(map(_vit_layer, (0, 1))),
        (*_each("vit.layers.{}.{}", "layernorm_before", "layernorm_after"), "vit.layernorm"),
        ("classifier",),
        through=("vit.embeddings", "vit.layernorm"),
    ),
}

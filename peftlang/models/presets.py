"""Tiny models by name: built from a configuration, seeded, randomly initialised, no network.

Every preset has width 32, two layers (on each side) and a feed-forward width that no other size
shares, so that a mistaken shape shows. They exist to try things on a fresh machine and for tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from peftlang.diagnostics import PeftError, nearest
from peftlang.models.handwritten import Classifier, TorchEncoder

Attention = Literal["sdpa", "eager"]

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GPT_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 88}
_TEXT = _SIZES | {"intermediate_size": 88, "vocab_size": 160, "max_position_embeddings": 64}
_GROUPED = _TEXT | {"num_key_value_heads": 2}
_BART_LIKE = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 88,
    "decoder_ffn_dim": 104,
    "vocab_size": 160,
}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_PIXELS = {"image_size": 16, "patch_size": 4}
_LABELS = {"num_labels": 3}


@dataclass(frozen=True)
class Preset:
    """A tiny model: what it shows, the transformers class that it is, and its configuration.

    ``architecture`` names a transformers model class; for the two presets that are plain modules
    it is None and ``module`` builds them.
    """

    about: str
    architecture: str | None = None
    options: dict[str, Any] | None = None
    module: Callable[[], nn.Module] | None = None

    def build(self, attn_implementation: Attention = "sdpa") -> nn.Module:
        """Build the model with whatever random state torch is in; `build` seeds it."""
        if self.module is not None:
            return self.module()
        import transformers

        model_class = getattr(transformers, self.architecture or "")
        config = model_class.config_class(**(self.options or {}))
        config.architectures = [self.architecture]
        if model_class._supports_sdpa:
            config._attn_implementation = attn_implementation
        model: nn.Module = model_class(config)
        return model


def _clip_options() -> dict[str, Any]:
    tower = _SIZES | {"projection_dim": 24}
    return {
        "text_config": tower
        | _IDS
        | {"intermediate_size": 88, "vocab_size": 160}
        | {"max_position_embeddings": 64},
        "vision_config": tower | _PIXELS | {"intermediate_size": 104},
        "projection_dim": 24,
    }


PRESETS: dict[str, Preset] = {
    "tiny-llama": Preset(
        "decoder, grouped-query attention, gated feed-forward", "LlamaForCausalLM", _GROUPED | _IDS
    ),
    "tiny-mistral": Preset(
        "decoder, sliding window", "MistralForCausalLM", _GROUPED | _IDS | {"sliding_window": 16}
    ),
    "tiny-qwen3": Preset(
        "decoder, norms on queries and keys", "Qwen3ForCausalLM", _GROUPED | _IDS | {"head_dim": 8}
    ),
    "tiny-gemma2": Preset(
        "decoder, norms before and after each sub-layer, capped scores",
        "Gemma2ForCausalLM",
        _GROUPED | _IDS | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16},
    ),
    "tiny-phi3": Preset(
        "decoder, fused q-k-v and fused gate-up", "Phi3ForCausalLM", _GROUPED | _IDS
    ),
    "tiny-gpt2": Preset(
        "decoder, one fused and transposed projection for q, k and v",
        "GPT2LMHeadModel",
        _GPT_SIZES | {"vocab_size": 160, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2},
    ),
    "tiny-gpt-neox": Preset(
        "decoder, fused q-k-v interleaved by head, parallel residual",
        "GPTNeoXForCausalLM",
        _TEXT | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "tiny-opt": Preset(
        "decoder, learnt positions",
        "OPTForCausalLM",
        {"hidden_size": 32, "ffn_dim": 88, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"vocab_size": 160, "max_position_embeddings": 64, "word_embed_proj_dim": 32}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1},
    ),
    "tiny-bert": Preset(
        "encoder, norms after the addition", "BertForMaskedLM", _TEXT | {"pad_token_id": 0}
    ),
    "tiny-roberta": Preset(
        "encoder with a classification head",
        "RobertaForSequenceClassification",
        _TEXT | _LABELS | {"pad_token_id": 1},
    ),
    "tiny-distilbert": Preset(
        "encoder with a classification head",
        "DistilBertForSequenceClassification",
        {"dim": 32, "hidden_dim": 88, "n_layers": 2, "n_heads": 4, "vocab_size": 160}
        | {"max_position_embeddings": 64, "pad_token_id": 0}
        | _LABELS,
    ),
    "tiny-deberta-v2": Preset(
        "encoder, disentangled attention with relative positions",
        "DebertaV2ForSequenceClassification",
        _TEXT
        | _LABELS
        | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
        | {"position_buckets": 8, "max_relative_positions": -1, "norm_rel_ebd": "layer_norm"}
        | {"position_biased_input": False, "type_vocab_size": 0, "pad_token_id": 0},
    ),
    "tiny-t5": Preset(
        "encoder-decoder, position bias, gated feed-forward",
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 88, "num_layers": 2, "num_heads": 4, "vocab_size": 160}
        | {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
        | {"eos_token_id": 1, "pad_token_id": 0},
    ),
    "tiny-bart": Preset(
        "encoder-decoder, norms after the addition",
        "BartForConditionalGeneration",
        _BART_LIKE
        | {"max_position_embeddings": 64, "decoder_start_token_id": 2}
        | {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "forced_eos_token_id": 2},
    ),
    "tiny-whisper": Preset(
        "encoder-decoder from audio features to text",
        "WhisperForConditionalGeneration",
        _BART_LIKE
        | {"num_mel_bins": 20, "max_source_positions": 24, "max_target_positions": 48}
        | {"decoder_start_token_id": 1, "begin_suppress_tokens": None}
        | _IDS,
    ),
    "tiny-vit": Preset(
        "image encoder",
        "ViTForImageClassification",
        _SIZES | _PIXELS | _LABELS | {"intermediate_size": 88},
    ),
    "tiny-clip": Preset("text tower and image tower", "CLIPModel", _clip_options()),
    "tiny-mixtral": Preset(
        "decoder, mixture of experts held in one tensor",
        "MixtralForCausalLM",
        _GROUPED | _IDS | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "tiny-mamba": Preset(
        "decoder with no attention",
        "MambaForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 160}
        | {"time_step_rank": 6, "conv_kernel": 4, "expand": 2}
        | _IDS,
    ),
    "tiny-transformer-encoder": Preset(
        "torch.nn.TransformerEncoder under a classifier", module=TorchEncoder
    ),
    "tiny-mlp": Preset("a plain module with attention and MLP of its own", module=Classifier),
}


def build(name: str, *, attn_implementation: Attention = "sdpa", seed: int = 0) -> nn.Module:
    """Build a preset, in evaluation mode, without touching the caller's random state.

    Args:
        name: A key of `PRESETS`.
        attn_implementation: How attention is computed, where the model leaves a choice.
        seed: Any integer; the same seed gives the same weights.

    Raises:
        PeftError: C701 if there is no such preset; the help names the nearest ones.
    """
    if name not in PRESETS:
        raise unknown_model(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PRESETS[name].build(attn_implementation).eval()


def unknown_model(name: str) -> PeftError:
    """The error for a model name that is no preset, no folder and no hub id."""
    near = nearest(name, PRESETS, count=3)
    return PeftError(
        f"there is no model `{name}`: no such preset, folder, or model on the hub",
        code="C701",
        help=f"did you mean {' or '.join(near)}?"
        if near
        else f"the presets are {', '.join(sorted(PRESETS))}",
    )

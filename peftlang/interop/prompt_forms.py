"""The correspondences of HF PEFT's soft prompts and prefixes; those of other methods: `table`."""

from typing import Any

from peftlang.interop import sources
from peftlang.interop.correspondence import Correspondence, Form, Stored

PROMPT_TUNING = Correspondence(
    forms=(
        Form(
            "prompt_tuning",
            {"P": Stored("prompt_embeddings")},
            hypers={"num_virtual_tokens": "l"},
            place="prompt",
        ),
    ),
    neutral={"num_transformer_submodules": (None, 1)},
    without_effect=frozenset(
        {
            "num_attention_heads",
            "num_layers",
            "prompt_tuning_init",
            "prompt_tuning_init_text",
            "token_dim",
            "tokenizer_kwargs",
            "tokenizer_name_or_path",
        }
    ),
    written={"num_transformer_submodules": 1, "prompt_tuning_init": "RANDOM"},
    whole_model=("CAUSAL_LM", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"),
    root="base_model.",
)

_PREFIX: dict[str, Any] = {
    "tensors": {"P_k": Stored("keys"), "P_v": Stored("values")},
    "hypers": {"num_virtual_tokens": "l"},
    "place": "core",
}
PREFIX_TUNING = Correspondence(
    forms=(
        Form("prefix", also=("prefix_gated",), **_PREFIX),
        Form(sources.TURNED_PREFIX, **_PREFIX),
    ),
    neutral={"num_transformer_submodules": (None, 1)},
    without_effect=frozenset(
        {
            "encoder_hidden_size",
            "init_weights",
            "num_attention_heads",
            "num_layers",
            "prefix_projection",
            "token_dim",
        }
    ),
    written={"num_transformer_submodules": 1, "prefix_projection": False},
    whole_model=("CAUSAL_LM", "SEQ_CLS", "TOKEN_CLS"),
    root="base_model.",
)

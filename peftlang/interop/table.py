"""The one table of correspondences between HF PEFT's methods and ours.

Everything that is particular to a method stands here, as data: which options name it, which of our
methods computes it, under which keys its tensors lie and in which layout, and which options may not
be silently left out. Reading and writing are one piece of code each, for all methods.

Source: the files that peft 0.21 writes and reads (``peft/tuners/*/config.py`` and ``layer.py``).
"""

from typing import Any

from peftlang.interop import sources
from peftlang.interop.common import (
    RANDLORA_A,
    RANDLORA_B,
    VERA_A,
    VERA_B,
    fourier_places,
    randlora_pair,
    summing,
    vera_pair,
)
from peftlang.interop.correspondence import OFF, Correspondence, Form, Stored, Value
from peftlang.interop.kronecker import Splits, factor_for
from peftlang.interop.layouts import (
    COLUMN,
    KERNELS,
    ROW,
    SHARED_TRIANGLE,
    TRANSPOSED,
    TRIANGLES,
)
from peftlang.interop.prompt_forms import PREFIX_TUNING, PROMPT_TUNING

_LORA = {"A": Stored("lora_A.weight"), "B": Stored("lora_B.weight")}
_DORA = {**_LORA, "m": Stored("lora_magnitude_vector")}
_EMBEDDING = {"A": Stored("lora_embedding_A"), "B": Stored("lora_embedding_B")}
_SCALED = {"r": "r", "lora_alpha": "alpha"}
_NO_DROPOUT = frozenset({"lora_dropout"})


def _lora(spec: str, rslora: bool, dora: bool, **more: Any) -> Form:
    tensors = _DORA if dora else _LORA
    hypers = _SCALED if dora else {**_SCALED, "lora_dropout": "p"}
    options = {"tensors": tensors, "hypers": hypers, **more}
    return Form(spec, when={"use_rslora": rslora, "use_dora": dora}, **options)


LORA = Correspondence(
    forms=(
        _lora("lora", rslora=False, dora=False, also=(sources.LORA_OF_WEIGHT,)),
        _lora("rslora", rslora=True, dora=False, also=(sources.RSLORA_OF_WEIGHT,)),
        _lora("dora", rslora=False, dora=True),
        _lora(sources.RSDORA, rslora=True, dora=True),
        _lora(
            sources.EMBEDDING,
            rslora=False,
            dora=False,
            place="embedding",
            tensors=_EMBEDDING,
            hypers=_SCALED,
            unused=_NO_DROPOUT,
        ),
        _lora(
            sources.RS_EMBEDDING,
            rslora=True,
            dora=False,
            place="embedding",
            tensors=_EMBEDDING,
            hypers=_SCALED,
            unused=_NO_DROPOUT,
        ),
    ),
    neutral={
        "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
        "lora_bias": OFF,
        "use_qalora": OFF,
        "use_bdlora": OFF,
        "alora_invocation_tokens": OFF,
        "layer_replication": OFF,
        "target_parameters": OFF,
        "trainable_token_indices": OFF,
        "arrow_config": OFF,
        "velora_config": OFF,
        "monteclora_config": OFF,
        "kasa_config": OFF,
        "corda_config": OFF,
        "lora_ga_config": OFF,
        "megatron_config": OFF,
        "lora_dropout": OFF,
    },
    without_effect=frozenset(
        {
            "ensure_weight_tying",
            "eva_config",
            "loftq_config",
            "megatron_core",
            "qalora_group_size",
            "runtime_config",
        }
    ),
    patterns={"r": "rank_pattern", "lora_alpha": "alpha_pattern"},
    bias="lora",
)

IA3 = Correspondence(
    forms=(
        Form(
            sources.IA3_INPUT,
            {"l": Stored("ia3_l", ROW)},
            listed="feedforward_modules",
            before="ia3",
        ),
        Form("ia3", {"l": Stored("ia3_l", COLUMN)}),
    ),
    without_effect=frozenset({"init_ia3_weights"}),
)

VERA = Correspondence(
    forms=(
        Form(
            "vera",
            {"lambda_d": Stored("vera_lambda_d"), "lambda_b": Stored("vera_lambda_b")},
            hypers={"r": "r", "d_initial": "d_initial"},
            common={"A": VERA_A, "B": VERA_B},
        ),
    ),
    neutral={"vera_dropout": OFF},
    without_effect=frozenset({"init_weights", "projection_prng_key", "save_projection"}),
    written={"save_projection": True, "projection_prng_key": 0},
    draw=vera_pair,
    bias="vera",
)

_ROTATION = {"Q": Stored("oft_R.weight", TRIANGLES)}
_ONE_ROTATION = {"Q": Stored("oft_R.weight", SHARED_TRIANGLE)}
_EXACT = {"use_cayley_neumann": False, "block_share": False}
_BLOCKS: dict[str, Any] = {
    "hypers": {"oft_block_size": "b"},
    "otherwise": {
        "oft_block_size": lambda _hypers, _sizes: 0,
        "r": lambda hypers, sizes: sizes["d_x"] // int(hypers["b"]),
    },
}
_NO_SERIES = frozenset({"num_cayley_neumann_terms"})
OFT = Correspondence(
    forms=(
        Form("oft", _ROTATION, _EXACT, unused=_NO_SERIES, **_BLOCKS),
        Form(
            sources.SHARED_OFT,
            _ONE_ROTATION,
            {**_EXACT, "block_share": True},
            unused=_NO_SERIES,
            **_BLOCKS,
        ),
        *(
            Form(
                sources.neumann_oft(count),
                _ROTATION,
                {
                    "use_cayley_neumann": True,
                    "num_cayley_neumann_terms": count,
                    "block_share": False,
                },
                **_BLOCKS,
            )
            for count in sources.NEUMANN_TERMS
        ),
        *(
            Form(
                sources.neumann_oft(count, shared=True),
                _ONE_ROTATION,
                {
                    "use_cayley_neumann": True,
                    "num_cayley_neumann_terms": count,
                    "block_share": True,
                },
                **_BLOCKS,
            )
            for count in sources.NEUMANN_TERMS
        ),
    ),
    neutral={"coft": OFF, "module_dropout": OFF},
    without_effect=frozenset({"eps", "init_weights", "r"}),
    written={"r": 0},
    bias="oft",
)

BOFT = Correspondence(
    forms=(
        Form(
            "boft",
            {"Q": Stored("boft_R"), "s": Stored("boft_s", COLUMN)},
            hypers={"boft_block_size": "b", "boft_n_butterfly_factor": "factors"},
        ),
    ),
    neutral={"boft_dropout": OFF},
    without_effect=frozenset(
        {"boft_block_num", "boft_block_size", "boft_n_butterfly_factor", "init_weights"}
    ),
    written={"boft_block_num": 0},
    bias="boft",
)

FOURIERFT = Correspondence(
    forms=(
        Form(
            "fourierft",
            {"c": Stored("fourierft_spectrum")},
            hypers={"n_frequency": "n", "scaling": "alpha", "random_loc_seed": "seed"},
            derived={"E": fourier_places},
        ),
    ),
    without_effect=frozenset({"init_weights"}),
    patterns={"n_frequency": "n_frequency_pattern"},
    relative=True,
    single=True,
    bias="fourierft",
)

LOHA = Correspondence(
    forms=(
        Form(
            "loha",
            {
                "B_1": Stored("hada_w1_a"),
                "A_1": Stored("hada_w1_b"),
                "B_2": Stored("hada_w2_a"),
                "A_2": Stored("hada_w2_b"),
            },
            hypers={"r": "r", "alpha": "alpha"},
        ),
    ),
    neutral={"rank_dropout": OFF, "module_dropout": OFF},
    without_effect=frozenset({"init_weights", "use_effective_conv2d"}),
    patterns={"r": "rank_pattern", "alpha": "alpha_pattern"},
    transposed=False,
)

_W2 = {"B": Stored("lokr_w2_a"), "A": Stored("lokr_w2_b")}
_W1 = {"D": Stored("lokr_w1_a"), "E": Stored("lokr_w1_b")}


def _lokr(spec: str, *, full: bool, low: bool, **more: Any) -> Form:
    first = {"C": Stored("lokr_w1")} if full else _W1
    second = _W2 if low else {"B": Stored("lokr_w2")}
    hypers: dict[str, Value] = {"r": "r", "alpha": "alpha", "decompose_factor": factor_for}
    when = {} if full else {"decompose_both": True}
    return Form(spec, {**first, **second}, when, hypers, fits=Splits(full, low), **more)


LOKR = Correspondence(
    forms=(
        _lokr("lokr", full=True, low=True),
        *(
            _lokr(sources.lokr(full=full, low=low), full=full, low=low)
            for full in (True, False)
            for low in (True, False)
        ),
    ),
    neutral={"rank_dropout": OFF, "module_dropout": OFF},
    without_effect=frozenset(
        {"decompose_both", "init_weights", "rank_dropout_scale", "use_effective_conv2d"}
    ),
    patterns={"r": "rank_pattern", "alpha": "alpha_pattern"},
    transposed=False,
)

C3A = Correspondence(
    forms=(Form("c3a", {"w": Stored("c3a_kernel", KERNELS)}, hypers={"block_size": "b"}),),
    without_effect=frozenset({"init_weights"}),
    patterns={"block_size": "block_size_pattern"},
    relative=True,
    transposed=False,
    single=True,
    bias="c3a",
)

_REFLECTIONS = {"U": Stored("hra_u", TRANSPOSED)}
HRA = Correspondence(
    forms=(
        Form("hra", _REFLECTIONS, {"apply_GS": False}, {"r": "r"}),
        Form(sources.ORTHONORMAL_HRA, _REFLECTIONS, {"apply_GS": True}, {"r": "r"}),
    ),
    without_effect=frozenset({"init_weights"}),
    transposed=False,
    bias="hra",
)

_RANDLORA: dict[str, Any] = {
    "tensors": {
        "lambda": Stored("randlora_lambda", TRANSPOSED),
        "gamma": Stored("randlora_gamma"),
    },
    "hypers": {"r": "r", "randlora_alpha": "alpha"},
    "common": {"A": RANDLORA_A, "B": RANDLORA_B},
}
RANDLORA = Correspondence(
    forms=(
        Form("randlora", fits=sources.not_narrowing, **_RANDLORA),
        Form(sources.NARROWING_RANDLORA, fits=sources.narrowing, **_RANDLORA),
        Form(sources.RANDLORA_OF_ANY_RANK, fits=sources.not_narrowing_by_any, **_RANDLORA),
        Form(sources.NARROWING_RANDLORA_OF_ANY_RANK, fits=sources.narrowing_by_any, **_RANDLORA),
    ),
    neutral={"randlora_dropout": OFF},
    without_effect=frozenset(
        {"init_weights", "projection_prng_key", "save_projection", "sparse", "very_sparse"}
    ),
    written={"save_projection": True, "projection_prng_key": 0},
    draw=randlora_pair,
    bias="randlora",
)

_SHARD = {"D": Stored("miss_block", TRANSPOSED)}
MISS = Correspondence(
    forms=(
        Form("miss", _SHARD, hypers={"r": "r"}),
        Form(sources.MISS_OF_ANY_RANK, _SHARD, hypers={"r": "r"}, derived={"M": summing}),
    ),
    neutral={"init_weights": (True, False), "miss_dropout": OFF},
    without_effect=frozenset({"mini_r"}),
    transposed=False,
)

LN_TUNING = Correspondence(forms=(), copies="ln_tuning_layers")

TABLE: dict[str, Correspondence] = {
    "LORA": LORA,
    "IA3": IA3,
    "VERA": VERA,
    "OFT": OFT,
    "BOFT": BOFT,
    "FOURIERFT": FOURIERFT,
    "LOHA": LOHA,
    "LOKR": LOKR,
    "C3A": C3A,
    "HRA": HRA,
    "RANDLORA": RANDLORA,
    "MISS": MISS,
    "LN_TUNING": LN_TUNING,
    "PROMPT_TUNING": PROMPT_TUNING,
    "PREFIX_TUNING": PREFIX_TUNING,
}
"""By `peft_type`, as the other library writes it."""

REFUSED: dict[str, str] = {
    "P_TUNING": "its prompt is made by a network that the folder does not hold",
    "ADALORA": "its ranks change while it trains",
}
"""Why some others have no correspondence."""

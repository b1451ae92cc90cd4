"""The methods that HF PEFT has as well, with the adapter's weights copied into its modules.

Only placements whose modules PEFT can wrap are here: not the fused projections of GPT-2, and not
prefix tuning, where PEFT counts the prefix among the positions of the queries.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from peftlang.ir.plan import TRAINED
from tests.methods.references.anatomy import Anatomy
from tests.methods.references.weights import Weights

Args = dict[str, Any]
Gradients = Callable[[], dict[str, Tensor | None]]
Library = Callable[[Any, Anatomy, Weights, Args], tuple[nn.Module, Gradients]]

Reading = Callable[[Tensor], Tensor]
Ties = list[tuple[Tensor, Any, Reading, Reading]]
"""Our tensor, PEFT's parameter, its value from ours, and our gradient from its own."""


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _reshaped(shape: torch.Size, gradient: Tensor) -> Tensor:
    return gradient.reshape(shape)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _targets(anatomy: Anatomy) -> dict[str, tuple[str, Any]]:
    return {
        projection.path: (role, layer)
        for layer in anatomy.layers
        for role, projection in (("attn.q", layer.attn.q), ("attn.v", layer.attn.v))
    }


def _wrapped(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    with _quietly():
        return get_peft_model(model, config)


def _by_target(
    config: Callable[[list[str], Args], Any],
    tie: Callable[[Any, dict[str, Tensor]], Ties],
) -> Library:
    def library(
        model: Any, anatomy: Anatomy, weights: Weights, args: Args
    ) -> tuple[nn.Module, Gradients]:
        targets = _targets(anatomy)
        wrapped = _wrapped(model, config(list(targets), args))
        ties: Ties = []
        for path, (role, layer) in targets.items():
            module = model.get_submodule(path)
            ties += tie(module, weights.at(role, layer))
        with torch.no_grad():
            for ours, theirs, copied, _ in ties:
                theirs.copy_(copied(ours).reshape(theirs.shape))

        def gradients() -> dict[str, Tensor | None]:
            names = {id(leaf): name for name, leaf in weights.leaves.items()}
            return {
                names[id(ours)]: None if theirs.grad is None else back(theirs.grad)
                for ours, theirs, _, back in ties
                if ours.requires_grad
            }

        return wrapped.eval(), gradients

    return library


def _plain(**names: str) -> Callable[[Any, dict[str, Tensor]], Ties]:
    """Ties by name alone; PEFT keeps one parameter for each adapter, ours is `default`."""

    def tie(module: Any, p: dict[str, Tensor]) -> Ties:
        found: Ties = []
        for ours, theirs in names.items():
            held = getattr(module, theirs)["default"]
            parameter = held.weight if isinstance(held, nn.Module) else held
            found.append((p[ours], parameter, _same, partial(_reshaped, p[ours].shape)))
        return found

    return tie


def _lora(targets: list[str], args: Args, **more: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=args["r"], lora_alpha=args["alpha"], target_modules=targets, **more)


def _tie_dora(module: Any, p: dict[str, Tensor]) -> Ties:
    magnitude = module.lora_magnitude_vector["default"].weight
    return [
        *_plain(A="lora_A", B="lora_B")(module, p),
        (p["m"], magnitude, _same, _same),
    ]


def _loha(targets: list[str], args: Args) -> Any:
    from peft import LoHaConfig

    return LoHaConfig(r=args["r"], alpha=args["alpha"], target_modules=targets)


def _lokr(targets: list[str], args: Args) -> Any:
    from peft import LoKrConfig

    return LoKrConfig(
        r=args["r"], alpha=args["alpha"], target_modules=targets, decompose_factor=args["f"]
    )


def _fourierft(targets: list[str], args: Args) -> Any:
    from peft import FourierFTConfig

    return FourierFTConfig(
        n_frequency=args["n"],
        scaling=args["alpha"],
        random_loc_seed=args.get("seed", 777),
        target_modules=targets,
    )


def _vera(targets: list[str], args: Args) -> Any:
    from peft import VeraConfig

    return VeraConfig(r=args["r"], target_modules=targets)


def _tie_vera(module: Any, p: dict[str, Tensor]) -> Ties:
    from peft.tuners._buffer_dict import BufferDict

    module.vera_A = BufferDict({"default": p["A"].detach()})
    module.vera_B = BufferDict({"default": p["B"].detach()})
    return _plain(lambda_d="vera_lambda_d", lambda_b="vera_lambda_b")(module, p)


def _oft(targets: list[str], args: Args) -> Any:
    from peft import OFTConfig

    return OFTConfig(
        r=0, oft_block_size=args["b"], target_modules=targets, use_cayley_neumann=False
    )


def _tie_oft(module: Any, p: dict[str, Tensor]) -> Ties:
    """PEFT keeps the upper triangle of S, where ours is S = (Q - Q') / 2."""
    size = p["Q"].shape[-1]
    rows, columns = torch.triu_indices(size, size, 1)

    def upper(free: Tensor) -> Tensor:
        return ((free - free.transpose(-1, -2)) / 2)[:, rows, columns]

    def back(gradient: Tensor) -> Tensor:
        full = torch.zeros_like(p["Q"])
        full[:, rows, columns] = gradient / 2
        return full - full.transpose(-1, -2)

    return [(p["Q"], module.oft_R["default"].weight, upper, back)]


def _boft(targets: list[str], args: Args) -> Any:
    from peft import BOFTConfig

    return BOFTConfig(
        boft_block_size=args["b"],
        boft_n_butterfly_factor=args["factors"],
        target_modules=targets,
    )


class _BlockDiagonal:
    """What PEFT's CUDA kernel computes, on any device."""

    @staticmethod
    def apply(blocks: Tensor) -> Tensor:
        return torch.stack([torch.block_diag(*factor) for factor in blocks])


def _boft_library(
    model: Any, anatomy: Anatomy, weights: Weights, args: Args
) -> tuple[nn.Module, Gradients]:
    """Without its CUDA extension PEFT takes one factor silently; the kernel is replaced."""
    import peft.tuners.boft.layer as boft

    with patch.object(boft, "get_fbd_cuda", lambda: True):
        made = _by_target(_boft, _plain(Q="boft_R", s="boft_s"))
        wrapped, gradients = made(model, anatomy, weights, args)
    forward = wrapped.forward

    def patched(*positional: Any, **named: Any) -> Any:
        with patch.object(boft, "FastBlockDiag", _BlockDiagonal):
            return forward(*positional, **named)

    wrapped.forward = patched
    return wrapped, gradients


def _ia3(model: Any, anatomy: Anatomy, weights: Weights, args: Args) -> tuple[nn.Module, Gradients]:
    from peft import IA3Config

    places: dict[str, dict[str, Tensor]] = {}
    for layer in anatomy.layers:
        for role, attention in layer.attentions():
            places[attention.k.path] = weights.at(f"{role}.k", layer)
            places[attention.v.path] = weights.at(f"{role}.v", layer)
        places[layer.ffn.down.path] = weights.at("ffn.act", layer)
    downs = [layer.ffn.down.path for layer in anatomy.layers]
    config = IA3Config(target_modules=list(places), feedforward_modules=downs)
    wrapped = _wrapped(model, config)
    held = {path: model.get_submodule(path).ia3_l["default"] for path in places}
    with torch.no_grad():
        for path, p in places.items():
            held[path].copy_(p["l"].reshape(held[path].shape))

    def gradients() -> dict[str, Tensor | None]:
        names = {id(leaf): name for name, leaf in weights.leaves.items()}
        return {names[id(p["l"])]: held[path].grad.flatten() for path, p in places.items()}

    return wrapped.eval(), gradients


def _prompt_tuning(
    model: Any, anatomy: Anatomy, weights: Weights, args: Args
) -> tuple[nn.Module, Gradients]:
    from peft import PromptTuningConfig

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=args["l"])
    wrapped = _wrapped(model, config)
    ours = weights.alone("prompt")["P"]
    theirs = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        theirs.copy_(ours)
    forward = wrapped.forward

    def shortened(**inputs: Any) -> Any:
        out = forward(**inputs)
        out.logits = out.logits[:, args["l"] :]
        return out

    wrapped.forward = shortened
    (name,) = weights.leaves
    return wrapped.eval(), lambda: {name: theirs.grad}


def _norm_tuning(
    model: Any, anatomy: Anatomy, weights: Weights, args: Args
) -> tuple[nn.Module, Gradients]:
    from peft import LNTuningConfig

    wrapped = _wrapped(model, LNTuningConfig(target_modules=list(anatomy.norms)))
    pairs = {
        f"{path}.{own}": parameter
        for path in anatomy.norms
        for own, parameter in model.get_submodule(path)
        .ln_tuning_layers["default"]
        .named_parameters()
    }
    with torch.no_grad():
        for name, parameter in pairs.items():
            parameter.copy_(weights.trained(name))
    return wrapped.eval(), lambda: {f"{TRAINED}.{name}": p.grad for name, p in pairs.items()}


LIBRARY: dict[str, Library] = {
    "lora": _by_target(_lora, _plain(A="lora_A", B="lora_B")),
    "rslora": _by_target(lambda t, a: _lora(t, a, use_rslora=True), _plain(A="lora_A", B="lora_B")),
    "dora": _by_target(lambda t, a: _lora(t, a, use_dora=True), _tie_dora),
    "loha": _by_target(
        _loha, _plain(A_1="hada_w1_b", B_1="hada_w1_a", A_2="hada_w2_b", B_2="hada_w2_a")
    ),
    "lokr": _by_target(_lokr, _plain(C="lokr_w1", B="lokr_w2_a", A="lokr_w2_b")),
    "vera": _by_target(_vera, _tie_vera),
    "fourierft": _by_target(_fourierft, _plain(c="fourierft_spectrum")),
    "oft": _by_target(_oft, _tie_oft),
    "boft": _boft_library,
    "ia3": _ia3,
    "norm_tuning": _norm_tuning,
}


def cached_prefix(
    model: Any, anatomy: Anatomy, weights: Weights, args: Args
) -> tuple[nn.Module, Gradients]:
    """Prefix tuning as keys and values that stand in the model's cache before its own."""
    from transformers import DynamicCache

    layers = [weights.at("attn.core", layer) for layer in anatomy.layers]
    forward = model.forward

    def with_cache(input_ids: Tensor, attention_mask: Tensor, **rest: Any) -> Any:
        batch, tokens = input_ids.shape
        cache = DynamicCache()
        for index, p in enumerate(layers):
            key, value = (
                p[name].transpose(0, 1).unsqueeze(0).expand(batch, -1, -1, -1)
                for name in ("P_k", "P_v")
            )
            cache.update(key, value, index)
        ones = attention_mask.new_ones(batch, len(layers[0]["P_k"]))
        return forward(
            input_ids=input_ids,
            attention_mask=torch.cat([ones, attention_mask], dim=1),
            position_ids=torch.arange(tokens).expand(batch, -1),
            past_key_values=cache,
            use_cache=True,
            **rest,
        )

    model.forward = with_cache
    return model, weights.gradients


def of(method: str, preset: str) -> Library | None:
    """The oracle for a method on a preset, None where there is none."""
    if method == "prompt_tuning":
        return _prompt_tuning if preset in {"tiny-llama", "tiny-gpt2"} else None
    if method == "prefix":
        return cached_prefix if preset in {"tiny-llama", "tiny-gpt2"} else None
    return LIBRARY.get(method) if preset != "tiny-gpt2" else None

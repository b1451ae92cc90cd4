"""Traps of released code and of other libraries, and that the references are not in them."""

import peft
import peft.tuners.boft.layer as boft_layer
import pytest
import torch
from torch import nn

from tests.oracles.plain import changed, file_of
from tests.oracles.test_library import D_H, D_X, METHODS, layer_of


def test_one_butterfly_factor_is_not_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its CUDA extension cannot be built, HF PEFT quietly makes one factor of three."""
    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: None)
    (made,) = layer_of(METHODS["boft"].config).boft_R.values()
    assert len(made) == 1
    torch.manual_seed(0)
    x, W = torch.randn(2, 3, D_X).double(), torch.randn(D_H, D_X).double()
    params = {"Q": torch.randn(3, D_X // 4, 4, 4).double(), "s": torch.ones(D_H).double()}
    facts = {"b": 4, "factors": 3}
    whole = changed("boft", facts, params, x=x, W=W, b=None)
    first = changed("boft", facts, params | {"Q": params["Q"][:1]}, x=x, W=W, b=None)
    assert not torch.allclose(whole, first, atol=1e-3)


def test_fourierft_starts_away_from_the_base_as_the_library_does() -> None:
    """Unless `init_weights` is asked for: the spec must not promise the identity."""
    layer = layer_of(METHODS["fourierft"].config)
    x = torch.randn(2, 3, D_X).double()
    assert not torch.allclose(layer(x), layer.get_base_layer()(x))
    start = file_of("fourierft")["initial"](
        type("Site", (), METHODS["fourierft"].facts), torch.zeros(D_H, D_X), None
    )
    assert start["c"].stddev.min() > 0


def test_scaling_the_inner_activation_is_scaling_what_down_reads() -> None:
    """HF PEFT's feed-forward (IA)3 scales the input of `down`; our site is `ffn.act`: one map."""
    config = peft.IA3Config(target_modules=["lin"], feedforward_modules=["lin"])
    layer = layer_of(config)
    scale = torch.rand(D_X).double()
    layer.ia3_l["default"].data.copy_(scale.unsqueeze(0))
    inner = torch.randn(2, 3, D_X).double()
    ours = layer.get_base_layer()(changed("ia3", {}, {"l": scale}, h=inner))
    torch.testing.assert_close(ours, layer(inner))


def test_a_zero_prefix_still_takes_attention() -> None:
    """A key and a value of zeros are not absent: the softmax gives them their share."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 2, 8).double() for _ in range(3))
    facts = {"l": 3, "heads": 2, "kv_heads": 2, "d_head": 8, "scale": 8**-0.5,
             "mask": torch.ones(4, 4, dtype=torch.bool)}  # fmt: skip
    zeros = {name: torch.zeros(3, 2, 8).double() for name in ("P_k", "P_v")}
    scores = (q.transpose(1, 2) @ k.transpose(1, 2).mT) * 8**-0.5
    base = (torch.softmax(scores, -1) @ v.transpose(1, 2)).transpose(1, 2)
    assert not torch.allclose(changed("prefix_gated", facts, zeros, q=q, k=k, v=v), base)


def test_adapter_bias_is_a_rank_one_update_and_a_shift() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(D_X, D_H).double()
    a, v, c = torch.randn(D_X).double(), torch.randn(D_H).double(), torch.randn(()).double()
    x = torch.randn(2, 3, D_X).double()
    ours = changed("adapter_bias", {}, {"a": a, "v": v, "c": c}, x=x, h=linear(x))
    W, b = linear.weight + torch.outer(v, a), linear.bias + c * v
    torch.testing.assert_close(ours, nn.functional.linear(x, W, b))


def test_the_prefix_as_an_adapter_is_the_prefix() -> None:
    """He et al.'s equivalence, between two references: through the softmax and as a sum."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 2, 8).double() for _ in range(3))
    params = {name: torch.randn(3, 2, 8).double() for name in ("P_k", "P_v")}
    facts = {"l": 3, "heads": 2, "kv_heads": 2, "d_head": 8, "scale": 8**-0.5,
             "mask": torch.ones(4, 4, dtype=torch.bool)}  # fmt: skip
    longer = changed("prefix", facts, params, k=k, v=v)
    want = nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), longer["k"].transpose(1, 2), longer["v"].transpose(1, 2)
    )
    got = changed("prefix_gated", facts, params, q=q, k=k, v=v)
    torch.testing.assert_close(got, want.transpose(1, 2))
    gate = _gate(q, params["P_k"], k)
    prefix = torch.softmax(_scores(q, params["P_k"].unsqueeze(0)), -1)
    alone = (prefix @ params["P_v"].transpose(0, 1)).transpose(1, 2)
    own = (torch.softmax(_scores(q, k), -1) @ v.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(got, (1 - gate) * own + gate * alone)


def _scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return q.transpose(1, 2) @ k.transpose(1, 2).mT * 8**-0.5


def _gate(q: torch.Tensor, prefix: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    ours = _scores(q, prefix.unsqueeze(0)).exp().sum(-1)
    theirs = _scores(q, k).exp().sum(-1)
    return (ours / (ours + theirs)).transpose(1, 2).unsqueeze(-1)

"""Traps of released code and of other libraries, and that the references are not in them."""

from typing import Any

import peft
import peft.tuners.boft.layer as boft_layer
import pytest
import torch
from torch import Tensor, nn

from peftlang.verifying.one_site import OneSite, one_site
from tests.methods.at_site import at
from tests.methods.harness import spec
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
    facts = {
        "l": 3,
        "heads": 2,
        "kv_heads": 2,
        "d_head": 8,
        "scale": 8**-0.5,
        "mask": torch.ones(4, 4, dtype=torch.bool),
    }
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
    facts = {
        "l": 3,
        "heads": 2,
        "kv_heads": 2,
        "d_head": 8,
        "scale": 8**-0.5,
        "mask": torch.ones(4, 4, dtype=torch.bool),
    }
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


def as_released(name: str, equation: str, release: str) -> str:
    """A spec's text with one of its parts as the released code has it."""
    text = spec(name).read_text("utf-8")
    assert text.count(equation) == 1, equation
    return text.replace(equation, release)


def penalty(site: OneSite) -> Tensor:
    found: Tensor = site.expressions(training=True)(site.placed.method.penalties[0])
    return found.mean()


def slope(value: Tensor, site: OneSite, name: str) -> float:
    (found,) = torch.autograd.grad(value.sum(), site.tensors[name], retain_graph=True)
    return float(found.abs().max())


def test_an_average_of_gates_that_add_up_to_one_balances_nothing() -> None:
    """PESC's release averages the kept gates: 1 / E, whatever the router does."""
    ours = "balance * E * sum(mean(chosen(p, k, over E), over batch) * mean(p, over batch))"
    text = as_released("pesc", ours, "balance * E * sum(mean(g, over batch), over E)")
    sizes: dict[str, Any] = {"E": 4, "k": 2, "r": 3}
    site, release = at("pesc", "ffn", **sizes), at(text, "ffn", **sizes)
    assert slope(penalty(release), release, "G") < 1e-12
    assert slope(penalty(site), site, "G") > 1e-6


def test_one_gate_that_is_divided_by_itself_teaches_the_router_nothing() -> None:
    one, two = (at("pesc", "ffn", E=4, k=k, r=3) for k in (1, 2))
    assert slope(one.run().h, one, "G") < 1e-12
    assert slope(two.run().h, two, "G") > 1e-6


def test_new_routers_gates_scale_new_experts() -> None:
    """In one of PERFT's released files the base's gates do, so that the task does not train R."""
    site = at("perft", "ffn", M=4, k=2, r=3)
    assert slope(site.run().h, site, "R") > 1e-6


def test_two_factors_that_start_at_zero_never_leave_it() -> None:
    """KAdaptation's release starts both fast weights at zero, and their gradients are zero."""
    text = as_released(
        "kadaptation", "param V[t, r, d_x / t] ~ xavier_uniform", "param V[t, r, d_x / t] ~ zeros"
    )
    release, site = (
        one_site(at(which, t=4, r=2).placed, initial=True) for which in (text, "kadaptation")
    )
    assert max(slope(release.run().h, release, name) for name in "PQUV") == 0
    assert slope(site.run().h, site, "U") > 1e-6


@pytest.mark.parametrize(
    ("name", "equation", "release"),
    [
        ("conformer_adapter", "z = layer_norm(x, over d_x)", "z = x"),
        ("convpass", "gelu(conv2(z, K) + b_c)", "gelu(z + b_c)"),
    ],
)
def test_what_a_release_computes_and_drops_is_in_the_equation(
    name: str, equation: str, release: str
) -> None:
    """The AST study's bodies throw away a norm and a convolution."""
    text = as_released(name, equation, release)
    site, theirs = at(name, "attn", r=3), at(text, "attn", r=3)
    assert not torch.allclose(site.run().h, theirs.run().h, atol=1e-3)


def circulant(first_column: Tensor) -> Tensor:
    size = len(first_column)
    return first_column[(torch.arange(size)[:, None] - torch.arange(size)) % size]


def test_a_product_of_circulants_is_not_one_of_their_vectors() -> None:
    """SURM's released product multiplies the vectors that define the two matrices."""
    site = at(
        "method m { param a[d_h] ~ normal param b[d_h] ~ normal position attn.q "
        "composition h = circulant(a) @ (circulant(b) @ h) }"
    )
    a, b, h = site.tensors["a"], site.tensors["b"], site.values()["h"]
    found = site.run().h
    torch.testing.assert_close(found, h @ (circulant(a) @ circulant(b)).T)
    assert not torch.allclose(found, h @ circulant(a * b).T, atol=1e-3)


def test_a_scale_of_the_input_is_none_of_the_output() -> None:
    """LLaMA-Adapter V2: as in the released code; the paper's text scales what the layer gives."""
    site = at("llama_adapter_v2", "linear", use=1, sizes={"d_x": 6})
    s, c = site.tensors["s"], site.tensors["c"]
    values = site.values()
    expected = nn.functional.linear(s * values["x"], values["W"], values["b"]) + c
    torch.testing.assert_close(site.run().h, expected)
    assert (len(s), len(c)) == (6, 12)


def test_conventions_of_circulants_convert() -> None:
    """C3A counts the other way round than SURM, and divides by the size."""
    site = at("c3a", b=12)
    w, size = site.tensors["w"].reshape(-1), 12
    column = torch.stack([w[-k % size] / size for k in range(size)])
    change = site.run().h - site.values()["h"]
    torch.testing.assert_close(change, site.leaves["x"] @ circulant(column).T)

"""Exact identities of methods that change or add weights, at one site, to rounding."""

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

from peftlang.ir.builtins import BUILTINS, Signature
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Ref
from peftlang.ir.interpret import Interpreter
from peftlang.ir.types import Type
from tests.methods.at_site import alike, at, named, same


def test_boft_is_a_rotation_of_the_input_and_a_gain() -> None:
    site = at("boft", b=2, factors=2)
    R, values = named(site, "R"), site.values()
    same(R @ R.T, torch.eye(12).double())
    wanted = site.tensors["s"] * linear(values["x"] @ R, values["W"]) + values["b"]
    same(site.run().h, wanted)


def test_one_factor_of_boft_is_oft_and_a_gain() -> None:
    site = at("boft", b=4, factors=1)
    site.tensors["s"] = torch.ones(12).double()
    alike(site, "oft", b=4, given={"Q": site.tensors["Q"][0]})


def test_fourierft_is_a_sum_of_cosines() -> None:
    site = at("fourierft", n=7, alpha=2.0, sizes={"d_h": 10})
    rows, columns = (torch.arange(n).double() for n in (10, 12))
    wanted = torch.zeros(10, 12).double()
    for place, c in zip(site.tensors["E"].tolist(), site.tensors["c"], strict=True):
        angle = rows[:, None] * place[0] / 10 + columns * place[1] / 12
        wanted = wanted + 2.0 * c * torch.cos(2 * math.pi * angle) / (10 * 12)
    same(site.run().targets["W"] - site.frozen["W"], wanted)
    assert site.trained["c"].numel() == 7


def test_rotations_keep_lengths() -> None:
    x = torch.randn(5, 12).double()
    for site, name in (
        (at("goft"), "R"),
        (at("boft", b=2), "R"),
        (at("oft", b=4), "R"),
        (at("hra", r=4), "H"),
    ):
        same((x @ named(site, name)).norm(dim=1), x.norm(dim=1))


def test_one_term_of_kadaptation_is_lokr() -> None:
    site = at("kadaptation", t=4, r=2, s=2.0)
    keep = torch.tensor([1.0, 0, 0, 0]).double()[:, None, None]
    site.tensors["P"] = site.tensors["P"] * keep
    site.tensors["c"] = torch.zeros(12).double()
    P, Q, U, V = (site.tensors[name][0] for name in "PQUV")
    alike(site, "lokr", r=2, alpha=4.0, f=4, given={"C": P @ Q, "A": V, "B": U})


def test_svfit_is_pissas_split_with_a_diagonal() -> None:
    site = at("svfit", r=5)
    values, (U, V) = site.values(), (site.tensors[name] for name in "UV")
    rest = values["W"] - U @ torch.diag(site.tensors["s_0"]) @ V
    split = linear(values["x"], rest + U @ torch.diag(site.tensors["s"]) @ V, values["b"])
    same(site.run().h, split)
    start = at("pissa", r=5, alpha=5.0)
    same(start.tensors["B_0"] @ start.tensors["A_0"], values["W"] - rest)


def test_a_full_band_between_singular_vectors_is_any_matrix_between_them() -> None:
    """`U (S + M) V'`, whatever the band, with all singular vectors."""
    for width in (0, 2):
        site = at("svft", k=12, w=width)
        U, V = (site.tensors[name] for name in "UV")
        W = site.values()["W"]
        M = bands(site.tensors["m"], width)
        merged = U @ (torch.diag(torch.linalg.svdvals(W)) + M) @ V
        same(site.run().h, linear(site.values()["x"], merged, site.values()["b"]), 1e-6)


def bands(entries: Tensor, beside: int) -> Tensor:
    total, used = torch.zeros(12, 12).double(), 0
    for offset in range(-beside, beside + 1):
        length = 12 - abs(offset)
        total = total + torch.diag(entries[used : used + length], offset)
        used += length
    return total


def test_soda_without_rotations_shifts_singular_values() -> None:
    site = at("soda", r=5, p=3)
    site.tensors |= {name: torch.zeros_like(site.tensors[name]) for name in ("Q_1", "Q_2")}
    plain = {"m": site.tensors["delta"], **{n: site.tensors[n] for n in "UV"}}
    alike(site, "svft", k=5, w=0, given=plain)


def test_a_kronecker_update_is_lokr_with_a_full_second_factor() -> None:
    text = """method k(f: int = 3) { param A[f, f] ~ normal
        param B[d_h / f, d_x / f] ~ normal
        position attn.q
        composition h = h + kron(A, B) @ x }"""
    site = at(text)
    A, B = site.tensors["A"], site.tensors["B"]
    eye = torch.eye(4).double()
    alike(site, "lokr", r=4, alpha=4.0, f=3, given={"C": A, "B": B, "A": eye})


def test_displacement_rank_of_the_width_is_any_matrix() -> None:
    d = Dim.of(5)
    refs = (Ref("g", Type((d, d))), Ref("h", Type((d, d))))
    matrix = Apply("low_displacement", refs, BUILTINS["low_displacement"].rule(Signature(refs)))

    def made(g: Tensor) -> Tensor:
        held = {"g": g, "h": torch.eye(5).double()}
        found: Tensor = Interpreter(torch, {}, held.__getitem__)(matrix)
        return found.flatten()

    units = torch.eye(25).double().unflatten(1, (5, 5))
    assert torch.linalg.matrix_rank(torch.stack([made(unit) for unit in units])) == 25


def test_branches_of_capaboost_are_one_merged_matrix_of_higher_rank() -> None:
    site = at("capaboost", r=2, K=3, alpha=4.0)
    A, B, N, M = (site.tensors[name] for name in "ABNM")
    parts = (M * B) @ (N * A)
    values, total = site.values(), 2.0 * parts.sum(0)
    same(site.run().h, linear(values["x"], values["W"] + total, values["b"]))
    assert 2 < torch.linalg.matrix_rank(total) <= 6
    site.run().h.square().sum().backward()
    leaves = [(N[k] * A.detach()).requires_grad_() for k in range(3)]
    apart = 2.0 * sum((M[k] * B.detach()) @ leaf for k, leaf in enumerate(leaves))
    plain = linear(values["x"], values["W"] + apart, values["b"]).square().sum()
    gradients = torch.autograd.grad(plain, leaves)
    assert A.grad is not None
    same(A.grad, sum((N[k] * g for k, g in enumerate(gradients)), torch.zeros(())))


def test_one_expert_of_mixphm_is_compacter() -> None:
    site = at("mixphm", "ffn", N=1, n=2, k=1, r=4)
    own, zeros = site.tensors, {"b_d": torch.zeros(4).double(), "b_u": torch.zeros(12).double()}
    names = {"s_d": "u_d", "t_d": "v_d", "s_u": "u_u", "t_u": "v_u", "S": "S"}
    given = {name: own[ours] for name, ours in names.items()} | zeros
    alike(site, "compacter", "ffn", n=2, r=4, given=given)


def test_mixphms_mean_is_that_of_the_matrices_where_the_function_is_linear() -> None:
    for act, equal in (("identity", True), ("gelu", False)):
        site = at("mixphm", "ffn", N=3, n=2, r=4, act=act)
        plain = at("houlsby", "ffn", r=4, act=act)
        given = {
            "W_d": named(site, "D").mean(0),
            "W_u": named(site, "U"),
            "b_d": torch.zeros(4).double(),
            "b_u": torch.zeros(12).double(),
        }
        merged = plain.run(tensors=given, leaves=site.leaves).h
        assert torch.allclose(site.run().h, merged, atol=1e-10) == equal


def test_adapter_bias_shifts_along_one_vector_as_lora_of_rank_one() -> None:
    site = at("adapter_bias", "ffn.down")
    shifts = (site.run().h - site.values()["h"]).flatten(0, 1)
    assert torch.linalg.matrix_rank(shifts) == 1
    v = site.tensors["v"]
    same(shifts - torch.outer(shifts @ v / (v @ v), v), torch.zeros(6, 12).double())
    a, c = site.tensors["a"], site.tensors["c"]
    low = at("lora", "ffn.down", r=1, alpha=1.0)
    found = low.run(tensors={"A": a[None], "B": v[:, None]}, leaves=site.leaves).h
    same(site.run().h, found + c * v)


def test_a_scale_of_what_a_linear_layer_reads_scales_its_columns() -> None:
    site = at("llama_adapter_v2", "linear", use=1, l=2)
    s, c, values = site.tensors["s"], site.tensors["c"], site.values()
    same(site.run().h, linear(values["x"], values["W"] * s, values["b"] + c))


def test_tied_gates_are_llama_adapters_one_gate() -> None:
    site = at("llama_adapter_v2", "attn.core", l=2)
    site.tensors["g"] = torch.full((4,), 0.7, dtype=torch.float64)
    gate = torch.tanh(torch.tensor(0.7, dtype=torch.float64))
    alike(site, "llama_adapter", "attn.core", l=2, given={"A": site.tensors["A"], "g": gate})


def test_a_gain_of_difffit_is_one_of_weight_and_bias() -> None:
    site = at("difffit", "attn.o")
    gain, values = site.tensors["gamma"], site.values()
    same(site.run().h, linear(values["x"], gain[:, None] * values["W"], gain * values["b"]))


def test_parallel_and_sequential_adapters_differ_in_what_they_read() -> None:
    site = at("parallel_adapter", "ffn", r=4, act="gelu")
    sequential = at("houlsby", "ffn", r=4)
    leaves = {**site.leaves, "x": site.leaves["h"]}
    same(site.run(leaves=leaves).h, sequential.run(tensors=site.tensors, leaves=site.leaves).h)
    assert not torch.allclose(site.run().h, site.run(leaves=leaves).h)


def test_lora_is_a_linear_parallel_adapter() -> None:
    site = at("parallel_adapter", "ffn", r=4, s=2.0, act="identity")
    site.tensors |= {n: torch.zeros_like(site.tensors[n]) for n in ("b_d", "b_u")}
    low = {"A": site.tensors["W_d"], "B": site.tensors["W_u"]}
    alike(site, "lora", "ffn", r=4, alpha=8.0, given=low)


def test_adalink_folds_into_the_table() -> None:
    site = at("adalink", "embed", r=3)
    table = site.frozen["W"]
    folded = table + table @ site.tensors["W_d"].T @ site.tensors["W_u"].T
    same(site.run().h, torch.nn.functional.embedding(site.ids(), folded))


def test_attention_of_one_token_is_a_bottleneck_adapter() -> None:
    """The history's booster with nothing to attend to: its attention is the identity."""
    site = at("vln_petl", "attn", use=2, m=2, e=3, sizes={"tokens": 1, "keys": 1})
    plain = {
        "W_d": site.tensors["D"].flatten(0, 1),
        "W_u": site.tensors["U"],
        "b_d": torch.zeros(6).double(),
        "b_u": torch.zeros(12).double(),
    }
    alike(site, "houlsby", "attn", r=6, act="identity", given=plain, sizes={"tokens": 1, "keys": 1})

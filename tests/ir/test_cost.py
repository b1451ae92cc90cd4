"""Costs against counts by hand, and against the operations that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from peftlang.ir.cost import Cost, cost
from peftlang.lower import build, load

D_X, D_H, R = 48, 40, 8


def cost_of(clauses: str, **sizes: int) -> Cost:
    text = f"method m(r: int = {R}) {{ position attn.q\n{clauses} }}"
    (use,) = build(load(text)).uses
    return cost(use.method, {"d_x": D_X, "d_h": D_H, "r": R, **sizes})


LOW_RANK = "param A[r, d_x] ~ normal\nparam B[d_h, r] ~ zeros\n"


def test_a_low_rank_path() -> None:
    found = cost_of(LOW_RANK + "function delta = B @ (A @ x)")
    # Two products, and one addition to the hidden state.
    assert found == Cost(2 * R * (D_X + D_H) + D_H, 0, R + D_H + D_H)


def test_a_structured_matrix_costs_what_its_product_does() -> None:
    found = cost_of("param B[4, d_h / 4, d_x / 4] ~ normal\nfunction delta = block_diag(B) @ x")
    assert found == Cost(2 * D_X * D_H // 4 + D_H, 0, D_H + D_H)
    found = cost_of("param c[d_x] ~ normal\ncomposition W = W @ diag(c)")
    assert found == Cost(0, D_X * D_H, 0)


def test_a_chain_costs_what_its_cheapest_order_does() -> None:
    written = cost_of(LOW_RANK + "function delta = (B @ A) @ x")
    assert written == cost_of(LOW_RANK + "function delta = B @ (A @ x)")


def test_work_on_weights_is_done_once_for_all_tokens() -> None:
    found = cost_of(LOW_RANK + "composition W = W + B @ A")
    assert found == Cost(0, 2 * R * D_X * D_H + D_X * D_H, 0)


def test_products_are_those_that_torch_counts() -> None:
    tokens = 5
    with FlopCounterMode(display=False) as counter:
        torch.randn(tokens, D_X) @ torch.randn(D_X, R) @ torch.randn(R, D_H)
    found = cost_of(LOW_RANK + "function delta = B @ (A @ x)")
    assert counter.get_total_flops() == tokens * (found.token_flops - D_H)


def test_a_longer_attention_costs_every_token() -> None:
    text = """method p(l: int = 6) {
        param P[l, kv_heads, d_head] ~ normal
        position attn.core
        composition k = concat(P, k)
        composition v = concat(P, v)
    }"""
    (use,) = build(load(text)).uses
    sizes = {"l": 6, "heads": 4, "kv_heads": 2, "d_head": 8}
    assert cost(use.method, sizes).token_flops == 2 * (2 * 6 * 4 * 8)


@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_an_activation_is_elementwise_whichever_is_chosen(act: str) -> None:
    text = f"""method m(act: fn = {act}) {{
        param B[d_h, d_x] ~ zeros
        position attn.q
        function delta = B @ act(x)
    }}"""
    (use,) = build(load(text)).uses
    assert cost(use.method, {"d_x": 3, "d_h": 5}) == Cost(3 + 2 * 3 * 5 + 5, 0, 3 + 5 + 5)

"""What a method does at one site: what each of its compositions reads."""

import torch
from torch.nn.functional import linear

from tests.methods.at_site import at, same

ALL = """
method all {
    carry s[d_h]    ~ zeros
    param g[d_x]    ~ ones
    param c[d_h]    ~ ones
    param D[d_h, d_h] ~ normal
    position    attn.q
    composition x = g * x
    composition W = W * outer(c, g)
    composition b = b + c
    composition h = c * h + s
    composition s = s + D @ h
}
"""


def test_operands_read_old_values_and_what_comes_out_follows_from_the_new_ones() -> None:
    site = at(ALL)
    values, own, state = site.values(), site.tensors, site.inputs["s"]
    found = site.run().targets
    x, weight = own["g"] * values["x"], values["W"] * torch.outer(own["c"], own["g"])
    bias = values["b"] + own["c"]
    h = linear(x, weight, bias)
    for name, wanted in (("x", x), ("W", weight), ("b", bias), ("h", own["c"] * h + state)):
        same(found[name], wanted)
    same(found["s"], state + h @ own["D"].T)


SEQUENTIAL = """
method after {
    param A[d_h, d_x] ~ normal
    position    attn.q
    insertion   sequential
    composition h = h + A @ x
}
"""


def test_a_sequential_method_reads_what_comes_out() -> None:
    site = at(SEQUENTIAL)
    h = site.values()["h"]
    same(site.run().h, h + h @ site.tensors["A"].T)


def test_what_is_not_written_is_left() -> None:
    site = at("method m { param g[d_h] ~ ones position attn.q composition h = g * h }")
    assert site.run().targets.keys() == {"h"}
    same(site.run().h, site.tensors["g"] * site.values()["h"])

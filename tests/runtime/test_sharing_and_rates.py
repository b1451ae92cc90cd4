"""Groups of layers that share, and parameters that learn faster than others."""

from dataclasses import replace

import pytest
import torch

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import PRESETS, build

SPEC = """method m(r: int = 2, size: int = 2) {{
    param A[r, d_x] ~ normal shared across {axis}
    param B[d_h, r] ~ zeros
    position attn.q
    composition h = h + B @ (A @ x)
}}"""


def holders(axis: str, layers: int = 5, **args: int) -> list[list[int | None]]:
    """For each tensor A, the layers of its sites."""
    whole = PRESETS["tiny-bert"]
    model = replace(whole, options={**(whole.options or {}), "num_hidden_layers": layers}).build()
    adapted = peftlang.compile(model, SPEC.format(axis=axis), **args)
    (adapter,) = peftlang.adapters(adapted).values()
    plan = adapter.plan
    return [
        [plan.sites[site].layer for _, site in group.members]
        for group in plan.groups.values()
        if group.tensor == "A"
    ]


def test_a_group_is_of_so_many_neighbouring_layers() -> None:
    assert holders("layers(size)") == [[0, 1], [2, 3], [4]]
    assert holders("layers(size)", size=3) == [[0, 1, 2], [3, 4]]
    assert holders("layers") == [[0, 1, 2, 3, 4]]


def test_stacks_share_layer_by_layer() -> None:
    model = build("tiny-clip")
    adapted = peftlang.compile(model, SPEC.format(axis="stacks"))
    (adapter,) = peftlang.adapters(adapted).values()
    groups = [g for g in adapter.plan.groups.values() if g.tensor == "A"]
    stacks = [{adapter.plan.sites[site].stack for _, site in g.members} for g in groups]
    assert all(len(found) == 2 for found in stacks)
    layers = [{adapter.plan.sites[site].layer for _, site in g.members} for g in groups]
    assert layers == [{0}, {1}]


def test_a_shared_tensor_whose_sites_differ_names_them_all() -> None:
    spec = SPEC.format(axis="model").replace("attn.q", "linear")
    with pytest.raises(PeftError) as error:
        peftlang.compile(build("tiny-bert"), spec)
    assert error.value.code == "S409"
    text = str(error.value)
    narrow, wide = text.splitlines()[0].split("; ")
    assert "[2, 32] at bert.encoder.layer.0.attention.self.query#linear, " in narrow
    assert narrow.endswith("and 7 more")
    assert wide.startswith("[2, 88] at bert.encoder.layer.0.output.dense#linear, ")
    assert wide.endswith("bert.encoder.layer.1.output.dense#linear")


def test_every_parameter_is_in_the_group_of_its_rate() -> None:
    text = """method m(r: int = 2) {
        param A[r, d_x] ~ normal
        param B[d_h, r] ~ zeros
        param c[d_h]    ~ zeros
        position attn.q
        composition h = h + B @ (A @ x) + c
        rate B = 4.0 * r
        rate c = 0.5
    }
    adapter a { m(r = 3) train norm.bias }"""
    model = peftlang.compile(build("tiny-bert"), text)
    groups = peftlang.parameter_groups(model, lr=0.01)
    assert [g["rate"] for g in groups] == [0.5, 1.0, 12.0]
    torch.testing.assert_close([g["lr"] for g in groups], [0.005, 0.01, 0.12])
    (adapter,) = peftlang.adapters(model).values()
    ids = [{id(p) for p in group["params"]} for group in groups]
    for name, tensor in adapter.tensors().items():
        want = {"c": 0, "B": 2}.get(name.rpartition(".")[2], 1)
        assert id(tensor) in ids[want], name
    assert sum(map(len, ids)) == sum(p.requires_grad for p in model.parameters())
    torch.optim.AdamW(groups).step()


def test_a_rate_is_one_of_the_clauses_after_with() -> None:
    text = "from lora import lora\nadapter a(k: int = 3) { lora() with rate B = 2 * k }"
    model = peftlang.compile(build("tiny-bert"), text)
    rates = [g["rate"] for g in peftlang.parameter_groups(model, lr=1.0)]
    assert rates == [1.0, 6.0]

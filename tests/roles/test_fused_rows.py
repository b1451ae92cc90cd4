"""The rows of a fused projection are the role's own: without them that role alone is gone."""

from typing import Any

import pytest
import torch
from torch import nn

from peftlang.dataflow.slices import as_rows
from peftlang.ir.plan import Rows, Site
from tests.roles.running import made, positions, real_inputs, watched

FUSED = ["tiny-gpt2", "tiny-gpt-neox", "tiny-phi3", "tiny-transformer-encoder"]


def blank(model: nn.Module, site: Site) -> None:
    """Set the role's rows of weight and bias to zero."""
    parameters = dict(model.named_parameters())
    assert site.rows is not None
    assert site.weight is not None
    with torch.no_grad():
        weight = parameters[site.weight]
        (weight.T if site.transposed else weight)[site.rows.indices] = 0
        if site.bias:
            parameters[site.bias][site.rows.indices] = 0


def product(model: nn.Module, sites: list[Site], inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    run = watched(model, sites, inputs)
    core = next(o[0] for o in run.found.values() if o[0].site.role == "attn.core")
    return {name: run.value(core, name) for name in "qkv"}


@pytest.mark.parametrize("preset", FUSED)
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_without_its_rows_an_operand_is_zero_and_the_others_are_not(preset: str, part: str) -> None:
    model, sites = made(preset)
    inputs = real_inputs(model)
    before = product(model, sites, inputs)
    blank(model, next(site for site in sites if site.role == f"attn.{part}"))
    after = product(model, sites, inputs)
    for name in "qkv":
        if name == part:
            assert after[name].abs().max() == 0
        else:
            assert torch.equal(after[name], before[name])


def test_without_the_gates_rows_the_activation_is_of_zero() -> None:
    model, sites = made("tiny-phi3")
    inputs = real_inputs(model)
    for role in ("ffn.gate", "ffn.up"):
        blank(model, next(site for site in sites if site.role == role))
        run = watched(model, sites, inputs)
        act = next(o[0] for o in run.found.values() if o[0].site.role == "ffn.act")
        # silu(0) * up and silu(gate) * 0 are both zero, so tell them apart by what is left.
        fused = next(o[0] for n, o in run.found.items() if n.endswith("gate_up_proj#linear"))
        left = run.value(fused, "h").abs().amax(dim=(0, 1)) > 0
        site = next(site for site in sites if site.role == role)
        assert site.rows is not None
        assert not left[site.rows.indices].any()
        assert run.value(act, "h").abs().max() == 0


class Interleaved(nn.Module):
    """q, k and v change places feature by feature; keys and values have half the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(32, 64)
        self.out = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = self.all(x).unflatten(-1, (2, 8, 4))
        q = groups[..., :2].permute(0, 2, 4, 1, 3).flatten(1, 2)
        k, v = (groups[..., i].permute(0, 2, 1, 3) for i in (2, 3))
        h = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.out(h.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_any_layout_comes_out() -> None:
    model = Interleaved().eval()
    sites = {s.role: s for s in positions(model, {"x": torch.randn(2, 7, 32)})}
    q, k, v = (sites[f"attn.{part}"].rows for part in "qkv")
    assert q is not None
    assert k is not None
    assert v is not None
    assert q.indices == [i for i in range(64) if i % 4 < 2]
    assert k == Rows(runs=((2, 63, 4),), size=64)
    assert v == Rows(runs=((3, 64, 4),), size=64)
    assert sites["attn.q"].dims["heads"] == 4
    assert sites["attn.q"].dims["kv_heads"] == 2


@pytest.mark.parametrize(
    ("indices", "size", "runs"),
    [
        (list(range(6)), 6, None),
        ([0, 1, 2], 6, ((0, 3, 1),)),
        ([0, 1, 4, 5], 8, ((0, 2, 1), (4, 6, 1))),
        ([1, 4, 7], 9, ((1, 8, 3),)),
        ([1, 4], 9, ((1, 2, 1), (4, 5, 1))),
        ([5], 9, ((5, 6, 1),)),
        ([0, 1, 2, 6], 9, ((0, 3, 1), (6, 7, 1))),
    ],
)
def test_runs_hold_exactly_the_rows(
    indices: list[int], size: int, runs: tuple[tuple[int, int, int], ...] | None
) -> None:
    rows = as_rows(indices, size)
    assert (rows.runs if rows else None) == runs
    assert rows is None or rows.indices == indices

"""Tensors that start from the base's weights, or from where other tensors start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build


def started(spec: str, **args: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    model = peftlang.compile(build("tiny-bert"), spec, **args)
    (adapter,) = peftlang.adapters(model).values()
    return model, dict(adapter.tensors())


def of_one_site(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    first = next(iter(tensors)).rpartition(".")[0]
    return {n.removeprefix(f"{first}."): t for n, t in tensors.items() if n.startswith(f"{first}.")}


def test_principal_components_start_as_the_paper_says() -> None:
    model, tensors = started("pissa", r=4, alpha=2.0)
    site = of_one_site(tensors)
    weight = model.get_parameter("bert.encoder.layer.0.attention.self.query.weight")
    u, s, v = torch.linalg.svd(weight.detach())
    want = u[:, :4] @ torch.diag(s[:4]) @ v[:4]
    torch.testing.assert_close(2 / 4 * site["B"] @ site["A"], want, rtol=1e-4, atol=1e-6)
    assert torch.equal(site["A"], site["A_0"])
    assert not site["A_0"].requires_grad
    again = of_one_site(started("pissa", r=4, alpha=2.0)[1])
    assert all(torch.equal(again[name], tensor) for name, tensor in site.items())


def test_each_layer_starts_from_its_own_weight() -> None:
    _, tensors = started("svfit", r=4)
    values = [t for name, t in tensors.items() if name.endswith(".s")]
    assert len({tuple(t.tolist()) for t in values}) == len(values) == 4


def test_a_random_start_can_be_read_by_what_is_declared_after() -> None:
    spec = """method m(r: int = 2) {
        param  A[r, d_x]   ~ normal
        buffer B[d_h, r]   ~ W @ transpose(A)
        buffer A_0[r, d_x] ~ 2.0 * A
        position attn.q
        composition h = h + B @ (A @ x - A_0 @ x)
    }"""
    model, tensors = started(spec)
    site = of_one_site(tensors)
    weight = model.get_parameter("bert.encoder.layer.0.attention.self.query.weight")
    assert torch.equal(site["A_0"], 2 * site["A"])
    torch.testing.assert_close(site["B"], weight @ site["A"].T)


def test_only_buffers_that_the_seed_gives_are_rebuilt(tmp_path: Path) -> None:
    spec = """method m(r: int = 2) {
        buffer A[r, d_x]    ~ normal
        buffer A_2[r, d_x]  ~ 2.0 * A
        buffer B_0[d_h, r]  ~ W @ transpose(A)
        buffer B_1[d_h, r]  ~ 0.5 * B_0
        param  B[d_h, r]    ~ B_1
        position attn.q
        composition h = h + B @ (A_2 @ x) - B_0 @ (A @ x) + 0.0 * (B_1 @ (A @ x))
    }"""
    model, tensors = started(spec)
    peftlang.save(model, tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "adapter.safetensors")
    assert {name.rpartition(".")[2] for name in stored} == {"B", "B_0", "B_1"}
    other = build("tiny-bert")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    (adapter,) = peftlang.adapters(peftlang.load(other, tmp_path / "saved")).values()
    assert all(torch.equal(adapter.tensors()[name], t) for name, t in tensors.items())


def test_more_singular_values_than_there_are_is_an_error() -> None:
    with pytest.raises(PeftError) as error:
        started("svfit", r=33)
    assert error.value.code == "S426"
    assert "[32]" in error.value.message or "32" in str(error.value)

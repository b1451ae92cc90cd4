"""Factors of a matrix: they make it up again, and are the same ones every time."""

import pytest
import torch
from torch import Tensor

from peftlang.diagnostics import PeftError
from peftlang.ir.interpret import Interpreter
from peftlang.lower import build, load

SIZES = {"d_h": 12, "d_x": 8, "r": 8, "layer": 1}


def values(*texts: str, w: Tensor, **sizes: int) -> list[Tensor]:
    """Values of expressions of W, as lets of one method, evaluated at one site."""
    lets = "\n".join(f"let v{i} = {text}" for i, text in enumerate(texts))
    source = f"method m(r: int = 8) {{\nposition attn.q\n{lets}\ncomposition h = h\n}}"
    (use,) = build(load(source)).uses
    interpret = Interpreter(torch, SIZES | sizes, {"W": w}.__getitem__)
    return [interpret(expr) for _, expr in use.method.lets]


def weight(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 8, generator=generator, dtype=torch.float64)


def test_singular_vectors_make_the_matrix_and_have_one_sign() -> None:
    w = weight()
    u, s, v = values("svd_u(W, r)", "svd_s(W, r)", "svd_v(W, r)", w=w)
    torch.testing.assert_close(u @ torch.diag(s) @ v, w)
    torch.testing.assert_close(u.T @ u, torch.eye(8).double())
    assert (s[1:] <= s[:-1]).all()
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()
    again = values("svd_u(W, r)", "svd_v(W, r)", w=-w)
    torch.testing.assert_close(again, [u, -v])


def test_the_leading_part_is_the_best_of_its_rank() -> None:
    w = weight()
    (low,) = values("svd_u(W, r) @ diag(svd_s(W, r)) @ svd_v(W, r)", w=w, r=3)
    dropped = torch.linalg.svdvals(w)[3:]
    torch.testing.assert_close((w - low).norm(), dropped.norm())


def test_one_decomposition_serves_all_its_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    svd = torch.linalg.svd

    def counted(matrix: Tensor, **options: bool) -> object:
        calls.append(matrix)
        return svd(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    values("svd_u(W, r)", "svd_s(W, r)", "svd_v(W, r)", "svd_u(W, 2)", w=weight())
    assert len(calls) == 1


def test_qr_makes_the_matrix_and_its_diagonal_is_positive() -> None:
    w = weight()
    q, r = values("qr_q(W, r)", "qr_r(W, r)", w=w)
    torch.testing.assert_close(q @ r, w)
    torch.testing.assert_close(torch.triu(r), r)
    assert (torch.diagonal(r) > 0).all()
    torch.testing.assert_close(q.T @ q, torch.eye(8).double())


CORES = ", ".join(f"train_core(W, {k}, r, 2, 2, d_h / 4, 2, d_x / 4, 2)" for k in (1, 2, 3))


def test_cores_make_the_matrix_when_bonds_are_wide() -> None:
    w = weight()
    (whole,) = values(f"tensor_train({CORES})", w=w, r=16)
    torch.testing.assert_close(whole, w)


def test_narrow_bonds_drop_the_smallest_singular_values() -> None:
    """Of two cores: the best approximation of the matrix whose rows are the first core's."""
    w = weight()
    cores = ", ".join(f"train_core(W, {k}, r, 3, d_h / 3, 2, d_x / 2)" for k in (1, 2))
    (whole,) = values(f"tensor_train({cores})", w=w, r=2)
    unfolded = w.reshape(3, 4, 2, 4).permute(0, 2, 1, 3).reshape(6, 16)
    torch.testing.assert_close((w - whole).norm(), torch.linalg.svdvals(unfolded)[2:].norm())


def test_a_part_is_counted_from_its_first_entry() -> None:
    w = weight()
    rows, columns, own = values(
        "part(W, 2, r)", "transpose(part(transpose(W), 1, 3))", "part(W, layer * r, r)", w=w, r=4
    )
    assert torch.equal(rows, w[2:6])
    assert torch.equal(columns, w[:, 1:4])
    assert torch.equal(own, w[4:8])


def test_a_part_outside_is_an_error() -> None:
    with pytest.raises(PeftError) as error:
        values("part(W, 5, r)", w=weight(), r=8)
    assert error.value.code == "S408"

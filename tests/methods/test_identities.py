"""Identities between methods of the library, at one projection, to rounding."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from peftlang.ir.expr import Expr
from peftlang.ir.interpret import Interpreter
from tests.methods.one_site import Projection, one_site


def same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def named(site: Projection, name: str) -> Tensor:
    """The value of one of the method's lets."""
    expr: Expr = dict(site.method.lets)[name]
    interpret = Interpreter(torch, site.place.sizes, (site.values | site.params).__getitem__)
    found: Tensor = interpret(expr)
    return found


def with_params(site: Projection, name: str, params: dict[str, Tensor], **args: float) -> Tensor:
    """The output of another method with these tensors, at the same site."""
    other = one_site(name, **args)
    other.params, other.values = params, site.values
    return other.ours()


def test_small_loras_side_by_side_are_one_with_block_diagonal_factors() -> None:
    site = one_site("melora", r=2, n=4, alpha=6.0)
    down, up = (torch.block_diag(*site.params[name]) for name in "AB")
    same(site.ours(), with_params(site, "lora", {"A": down, "B": up}, r=8, alpha=24.0))
    assert torch.linalg.matrix_rank(up @ down) == 8


def test_one_small_lora_is_lora() -> None:
    site = one_site("melora", r=3, n=1, alpha=6.0)
    whole = {name: tensor[0] for name, tensor in site.params.items()}
    same(site.ours(), with_params(site, "lora", whole, r=3, alpha=6.0))


def test_one_block_is_lora() -> None:
    site = one_site("gralora", r=3, k=1, alpha=6.0)
    whole = {"A": site.params["A"].reshape(3, -1), "B": site.params["B"][0]}
    same(site.ours(), with_params(site, "lora", whole, r=3, alpha=6.0))


def test_masks_that_keep_everything_leave_the_host() -> None:
    site = one_site("capaboost", r=3, K=1, alpha=6.0)
    site.params |= {name: torch.ones_like(site.params[name]) for name in "MN"}
    host = {name: site.params[name] for name in "AB"}
    same(site.ours(), with_params(site, "lora", host, r=3, alpha=6.0))


def test_a_diagonal_between_singular_vectors_shifts_singular_values() -> None:
    site = one_site("svfit", r=5)
    plain = {name: site.params[name] for name in "UV"}
    plain["m"] = site.params["s"] - site.params["s_0"]
    same(site.ours(), with_params(site, "svft", plain, k=5, w=0))


def test_a_tournament_of_rotations_is_orthogonal_and_keeps_lengths() -> None:
    site = one_site("goft")
    turned = named(site, "R")
    same(turned @ turned.T, torch.eye(24, dtype=torch.float64))
    assert site.params["theta"].numel() == 23


def test_free_blocks_that_are_rotations_are_a_tournament_of_rotations() -> None:
    site = one_site("goft")
    cos, sin = torch.cos(site.params["theta"]), torch.sin(site.params["theta"])
    blocks = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    same(site.ours(), with_params(site, "qgoft", {"G": blocks}))


def test_the_penalty_of_free_blocks_is_none_for_rotations() -> None:
    from tests.references.qgoft import penalty

    site = one_site("qgoft", beta=0.5)
    interpret = Interpreter(torch, site.place.sizes, site.params.__getitem__)
    (term,) = site.method.penalties
    same(interpret(term), penalty(site.place, site.params))
    assert interpret(term) > 0


def test_reflections_in_pairs_undo_each_other() -> None:
    site = one_site("hra", r=6)
    site.params["U"] = site.params["U"][:3].repeat_interleave(2, dim=0)
    same(site.ours(), site.values["h"])
    chain = named(one_site("hra", r=5), "H")
    same(chain @ chain.T, torch.eye(24, dtype=torch.float64))


def test_rotations_of_factors_rotate_the_whole() -> None:
    site = one_site("soda", r=3, p=4)
    site.params["delta"] = torch.zeros(3, dtype=torch.float64)
    turned = torch.kron(named(site, "R_1"), named(site, "R_2"))
    same(turned @ turned.T, torch.eye(24, dtype=torch.float64))
    values = site.values
    same(site.ours(), linear(values["x"] @ turned.T, values["W"], values["b"]))


def test_a_circulant_update_has_kernels_in_the_other_convention() -> None:
    """PEFT's kernel w and the first column c of a circulant matrix: w[k] = c[-k mod d]."""
    site = one_site("c3a", d_x=8, d_h=8, b=8)
    first_row = site.params["w"][0, 0]
    places = torch.arange(8)
    column = first_row[(-places) % 8]
    dense = column[(places[:, None] - places) % 8]
    same(site.ours(), site.values["h"] + site.values["x"] @ dense.T / 8)

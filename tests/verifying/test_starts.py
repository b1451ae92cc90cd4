"""Tensors as they start: read from weights, from one another, exact where they are not drawn."""

import pytest
import torch

from peftlang.verifying import Subject, verify
from peftlang.verifying.one_site import OneSite, one_site
from peftlang.verifying.site_case import SiteCase, place

SIZES = {
    "d_x": 4,
    "d_h": 6,
    "heads": 1,
    "kv_heads": 1,
    "d_head": 6,
    "layers": 2,
    "layer": 0,
    "vocab": 5,
    "batch": 2,
    "tokens": 3,
    "keys": 3,
}


def at(spec: str, role: str, dtype: str = "float64") -> OneSite:
    """A site of a method that starts there."""
    subject = Subject(spec)
    case = SiteCase(role, subject.default.uses[0].label, SIZES, dtype=dtype)
    return one_site(place(subject, case), initial=True)


MIXED = """
method start(r: int = 2) {
    param P[r, d_h] ~ normal(std = 0.02)
    param R[r, d_x] ~ P @ W
    position    attn.q
    composition W = W + transpose(P) @ (R - P @ W)
    ensure      identity_at_init
}
"""


def test_a_start_may_read_a_drawn_tensor_beside_the_weight() -> None:
    assert verify(MIXED, whole=False, examples=10).holds


EXACT = """
method exact {
    buffer c[d_h]      ~ constant(0.1)
    buffer Q[d_h, d_h] ~ orthogonal
    position    attn.q
    composition h = h + c + Q @ h
    ensure      orthogonal(Q)
}
"""


def test_what_is_not_drawn_is_exact() -> None:
    site = at(EXACT, "attn.q")
    exact = torch.full((6,), 0.1, dtype=torch.float64)
    assert torch.equal(site.tensors["c"], exact)
    q = site.tensors["Q"]
    torch.testing.assert_close(q @ q.mT, torch.eye(6).double(), rtol=0, atol=1e-14)
    torch.testing.assert_close(at(EXACT, "attn.q", "float32").tensors["Q"].double(), q)
    assert verify(EXACT, whole=False, examples=10).holds


ROWS = """
method rows(i: int = 3, j: int = 1) {
    param V[2, d_h] ~ reshape(concat(W[i], W[j]), 2, d_h)
    position    embed
    composition h = h + token_is(i) * (V[0] - h) + token_is(j) * (V[1] - h)
    ensure      identity_at_init, mergeable
}
"""


def test_the_ids_that_a_method_asks_for_are_those_that_the_embedding_looks_up() -> None:
    """Two rows that start as the embedding's own, exchanged: a function of the id."""
    assert verify(ROWS, whole=False, examples=40, args={"i": 3, "j": 1}).holds
    site = at(ROWS, "embed")
    assert site.ids().max() < SIZES["vocab"]
    assert set(site.ids().flatten().tolist()) >= {3, 1}
    assert torch.equal(site.ids(), site.tokens.ids)
    assert torch.equal(site.values()["h"], site.frozen["W"][site.ids()])


def test_a_start_that_reads_another_row_is_found() -> None:
    wrong = ROWS.replace("V[0] - h", "V[1] - h")
    report = verify(wrong, whole=False, examples=40, args={"i": 3, "j": 1})
    assert next(row.property for row in report.rows if not row.holds) == "identity_at_init"


def test_a_norm_gives_as_many_features_as_it_takes() -> None:
    spec = """
method scale {
    param g[d_h] ~ ones
    position    norm, attn.q
    composition h = g * h
    ensure      identity_at_init
}
"""
    assert verify(spec, whole=False, examples=30).holds


READ = "tap e[d_e] = embed.h\n    param E[r, d_e] ~ zeros\n    carry s[r] ~ E @ e"
CHAIN = """
method chain(r: int = 2) {
    carry s[r] ~ zeros
    param D[r, d_h] ~ zeros
    param U[d_h, r] ~ normal
    position    block
    composition h = h + U @ s
    composition s = s + D @ h
    ensure      identity_at_init
}
"""


@pytest.mark.parametrize(
    ("old", "new", "holds"),
    [
        ("", "", True),
        ("D[r, d_h] ~ zeros", "D[r, d_h] ~ normal", False),
        ("carry s[r] ~ zeros", "carry s[r] ~ ones", False),
        ("s + D @ h", "s + 1 + D @ h", False),
        ("carry s[r] ~ zeros", READ, True),
    ],
)
def test_a_state_that_starts_at_nothing_and_stays_there_leaves_the_base(
    old: str, new: str, *, holds: bool
) -> None:
    assert old in CHAIN
    report = verify(CHAIN.replace(old, new), whole=False, examples=10)
    row = next(row for row in report.rows if row.property == "identity_at_init")
    assert row.holds is holds

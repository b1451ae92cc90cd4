"""Gradients reach every tensor: of those that a later site's state reads, too."""

from functools import cache

import pytest

from peftlang.verifying import Report, Row, Subject, verify
from peftlang.verifying.adapted_model import AdaptedModel
from peftlang.verifying.checks.whole_model_checks import rows_on_a_model

CHAIN = """
method chain(r: int = 2) {
    carry s[r] ~ zeros
    param D[r, d_h] ~ normal(std = 0.1)
    param U[d_h, r] ~ normal(std = 0.1)
    position    block
    composition h = h + U @ s
    composition s = s + D @ h
}
"""


def gradients(report: Report) -> Row:
    (row,) = (row for row in report.rows if row.property.startswith("gradients"))
    return row


def test_what_only_a_state_reads_learns_from_the_sites_to_which_it_is_handed() -> None:
    assert gradients(verify(CHAIN, whole=False, examples=10)).holds


@pytest.mark.parametrize(
    ("old", "new"),
    [("h + U @ s", "h + U @ stop_gradient(s)"), ("+ D @ h", "+ stop_gradient(D) @ h")],
)
def test_a_state_that_teaches_nothing_is_found(old: str, new: str) -> None:
    assert old in CHAIN
    row = gradients(verify(CHAIN.replace(old, new), whole=False, examples=10))
    assert not row.holds
    assert row.reason == "the gradient of `D` is zero at every site"


def test_a_state_that_no_change_reads_teaches_nothing() -> None:
    alone = CHAIN.replace("h + U @ s", "h + U @ (transpose(U) @ h)")
    assert not gradients(verify(alone, whole=False, examples=10)).holds


@cache
def on_a_model(old: str = "", new: str = "") -> Row:
    rows = rows_on_a_model(AdaptedModel(Subject(CHAIN.replace(old, new)), "tiny-llama"))
    (row,) = (row for row in rows if row.property.startswith("gradients"))
    return row


def test_the_ends_of_a_chain_are_excused() -> None:
    """The first layer is handed zeros, and what the last one hands on is read by none."""
    assert on_a_model().holds


def test_what_is_dead_in_every_layer_is_not() -> None:
    row = on_a_model("+ D @ h", "+ stop_gradient(D) @ h")
    assert not row.holds
    assert row.reason.startswith("no gradient reaches")
    assert ".D`" in row.reason


def test_what_multiplies_a_bias_is_not_dead_for_a_preset_whose_biases_are_new() -> None:
    spec = "method m { param g[d_h] ~ ones position attn.q composition b = g * b }"
    rows = rows_on_a_model(AdaptedModel(Subject(spec), "tiny-bert"))
    assert [row.property for row in rows if not row.holds] == []

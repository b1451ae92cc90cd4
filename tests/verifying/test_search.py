"""Searching: sites that are refused, that cannot be computed, and what a user never sees."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlang.diagnostics import PeftError
from peftlang.verifying import Subject, compare, load_reference, one_site, replay, verify
from peftlang.verifying.adapted_model import AdaptedModel
from peftlang.verifying.checks import whole_model_checks
from peftlang.verifying.checks.whole_model_checks import rows_on_a_model
from peftlang.verifying.method_at_site import method_at_site


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets a method be computed only where a site reads that many features."""

    def least(features: int) -> None:
        def refuse(method: Any, sizes: Any, *given: Any, **options: Any) -> Any:
            if sizes["d_x"] < features:
                raise RuntimeError(f"size mismatch\nadvice of {features} lines")
            return method_at_site(method, sizes, *given, **options)

        monkeypatch.setattr(one_site, "method_at_site", refuse)

    return least


def test_what_cannot_be_computed_at_some_sites_is_one_row_and_not_the_end(
    refusing: Callable[[int], None],
) -> None:
    refusing(2)
    report = verify("lora", whole=False, examples=20)
    found = {row.property: row for row in report.rows}
    row = found.pop("can be computed at every site")
    assert row.wrong == "the spec cannot be computed here: size mismatch"
    assert row.failure is not None
    assert row.failure.case is not None
    assert row.failure.case.sizes["d_x"] == 1
    assert all(other.holds for other in found.values()), "where it can be computed"
    alone = compare("lora", load_reference("lora"), examples=5).failure
    assert str(alone) == row.wrong
    again = replay("lora", row.property, **row.failure.case.facts())
    assert str(again) == row.failure.note


def test_what_can_be_computed_nowhere_is_said_of_each_contract(
    refusing: Callable[[int], None],
) -> None:
    refusing(1000)
    report = verify("lora", whole=False, examples=2)
    broken = {row.property for row in report.rows if not row.holds}
    assert broken == {"identity_at_init", "mergeable", "can be computed at every site"}


def test_a_model_on_which_it_cannot_be_computed_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(subject: Subject, name: str) -> AdaptedModel:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(whole_model_checks, "AdaptedModel", refuse)
    report = verify("lora", model="tiny-llama", examples=2)
    assert report.models == ("tiny-llama",)
    assert report.rows[-1].property == "can be computed (tiny-llama)"
    assert report.rows[-1].wrong == "size mismatch"


@pytest.mark.parametrize("error", [RuntimeError("no"), PeftError("no", code="S417")])
def test_a_model_that_refuses_when_it_runs_is_a_row(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = AdaptedModel(Subject("lora"), "tiny-llama")

    def refuse() -> None:
        raise error

    monkeypatch.setattr(adapted, "run", refuse)
    rows = rows_on_a_model(adapted)
    assert [row.property for row in rows] == ["can be computed (tiny-llama)"]
    assert str(rows[0].failure).endswith("no")


RECURSION = """
import sys

def reference(site, params, x, h):
    sys.setrecursionlimit(sys.getrecursionlimit() + 1)
    return h + site.alpha / site.r * (x @ params.A.T @ params.B.T)
"""


def test_hypothesis_does_not_speak_to_the_user(tmp_path: Path) -> None:
    path = tmp_path / "ref.py"
    path.write_text(RECURSION)
    limit = sys.getrecursionlimit()
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            assert verify("lora", against=path, whole=False, examples=3).holds
    finally:
        sys.setrecursionlimit(limit)
    assert [str(warning.message) for warning in seen] == []


TALL = """
method tall {
    param M[2 * d_h, d_h] ~ normal
    param N[2 * d_h, d_h] ~ normal
    position attn.q
    composition h = h + transpose(orthonormal(M)) @ (N @ h)
    ensure mergeable
}
"""


def test_a_site_that_is_refused_is_said_to_be_by_a_replay() -> None:
    sizes = dict.fromkeys(("d_x", "d_h", "heads", "kv_heads", "d_head", "layers", "vocab"), 1)
    sizes |= {"batch": 1, "tokens": 1, "keys": 1, "layer": 0}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = replay(TALL, "mergeable", role="attn.q", use="tall", sizes=sizes, args={})
    assert str(found).startswith("it is not tried here: ")
    assert not seen


SHIFTED = "method shifted { param g[d_h] ~ zeros position attn.q composition h = h + g }"
BIAS = "method bias { param g[d_h] ~ zeros position attn.q composition b = b + g }"


def test_a_spec_that_wants_a_bias_is_compared_where_there_is_one() -> None:
    found = compare(SHIFTED, load_reference(BIAS), examples=20)
    assert (found.failure, found.examples) == (None, 20)


def test_a_spec_that_is_given_something_else_is_no_reference() -> None:
    other = BIAS.replace("{", "{ input c[d_h] : float", 1).replace("b + g", "b + g + 0 * c")
    other = other.replace("composition b", "composition h").replace("= b", "= h")
    with pytest.raises(PeftError) as caught:
        compare(SHIFTED, load_reference(other), examples=5)
    assert caught.value.code == "V811"
    assert "`c`" in caught.value.message


def test_a_reference_of_a_spec_that_gives_no_number_is_not_said_to_write(tmp_path: Path) -> None:
    spec = "method m { param g[d_h] ~ log(0 * b - 1) position attn.q composition h = h + g }"
    path = tmp_path / "ref.py"
    path.write_text("def reference(params, h): return h + params.g\n")
    assert compare(spec, load_reference(path), examples=5).failure is None

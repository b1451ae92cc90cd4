"""A spec held to a reference at one site: what agrees, what differs, what is no reference."""

from pathlib import Path

import pytest

from peftlang.diagnostics import PeftError
from peftlang.verifying import Subject, compare, load_reference, verify
from peftlang.verifying.checks.equals_reference import difference
from peftlang.verifying.site_case import SiteCase, place

LORA = """
def reference(site, params, x, h, W, b, **inputs):
    return h + site.alpha / site.r * (x @ params.A.T @ params.B.T)
"""
PREFIX = """
import torch

def reference(params, q, k, v):
    rows = k.shape[0]
    return {
        "k": torch.cat([params.P_k.expand(rows, -1, -1, -1), k], 1),
        "v": torch.cat([params.P_v.expand(rows, -1, -1, -1), v], 1),
    }
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "ref.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("spec", "text"), [("lora", LORA), ("prefix", PREFIX)])
def test_a_right_reference_agrees(spec: str, text: str, tmp_path: Path) -> None:
    found = compare(spec, load_reference(written(tmp_path, text)), examples=15)
    assert (found.failure, found.examples) == (None, 15)
    assert found.worst < 1e-4


def test_another_spec_is_a_reference() -> None:
    assert compare("prefix_gated", load_reference("prefix"), examples=10).failure is None


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("site.r", "4", "h"),
        ("params.A.T", "params.A.T.detach()", "gradient of A"),
        ("x @", "x.detach() @", "gradient of x"),
    ],
)
def test_a_difference_is_shrunk_to_the_smallest_site(
    old: str, new: str, what: str, tmp_path: Path
) -> None:
    reference = load_reference(written(tmp_path, LORA.replace(old, new)))
    failure = compare("lora", reference, examples=20).failure
    assert failure is not None
    assert failure.case is not None
    assert failure.difference is not None
    assert failure.difference.what == what
    assert failure.case.sizes["d_x"] == failure.case.sizes["tokens"] == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("V801", "def reference(:"),
        ("V802", "def other(x):\n    return x"),
        ("V802", "def reference(x, y):\n    return x"),
        ("V803", "def reference(params, h):\n    return h + params.C"),
        ("V803", "import sys\ndef reference(h):\n    sys.exit(3)"),
        ("V804", "def reference(h):\n    pass"),
        ("V805", "def reference(h):\n    return h[..., None]"),
        ("V805", "def reference(h):\n    return h[..., :1]"),
        ("V806", "def reference(h):\n    return h * float('nan')"),
        ("V807", "def reference(h):\n    return h.detach()"),
        ("V808", "def reference(h):\n    h += 1\n    return h"),
        ("V809", "import torch\ndef reference(h):\n    return h + torch.rand(())\n"),
        ("V809", "calls = []\ndef reference(h):\n    calls.append(1)\n    return h * len(calls)"),
    ],
)
def test_what_is_no_reference(code: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(PeftError) as caught:
        compare("lora", load_reference(written(tmp_path, text)), examples=5)
    assert caught.value.code == code
    if "params.C" in text:
        assert f"{tmp_path / 'ref.py'}:2: `return h + params.C`" in str(caught.value)
        assert "lora(r = 1, alpha = 16.0, p = 0.0) at attn.q with d_x = 1, d_h = 1 (" in (
            str(caught.value)
        )


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("V804", "POSITIONS = 3"),
        ("V804", "FROZEN = 'A'"),
        ("V804", "SHARED = ('A',)"),
        ("V802", "def initial(nothing):\n    return {}"),
        ("V804", "def initial():\n    return 3"),
        ("V803", "def initial():\n    return {'A': lambda t: t.nothing, 'B': lambda t: True}"),
        ("V804", "def initial(site):\n    return {'A': of(site.r, site.d_x), 'B': lambda t: True}"),
        ("V804", "def penalty(x):\n    return x"),
        ("V803", "def penalty(x):\n    raise ValueError"),
        ("V802", "def rates(nothing):\n    return {}"),
        ("V804", "def rates():\n    return 3"),
    ],
)
def test_what_is_no_statement(code: str, text: str, tmp_path: Path) -> None:
    above = "from torch.distributions import StudentT\n"
    above += "def of(*shape):\n    return StudentT(3.0).expand(shape)\n"
    path = written(tmp_path, LORA + above + text)
    with pytest.raises(PeftError) as caught:
        verify("lora", against=path, examples=1, whole=False)
    assert caught.value.code == code


def test_references_that_are_nowhere() -> None:
    with pytest.raises(PeftError) as caught:
        load_reference("missing.py")
    assert caught.value.code == "V801"
    with pytest.raises(PeftError) as caught:
        load_reference("nowhere:lora")
    assert caught.value.code == "V810"


def test_tensors_that_do_not_correspond() -> None:
    with pytest.raises(PeftError) as caught:
        compare("lora", load_reference("dora"), examples=3)
    assert caught.value.code == "V811"


NOWHERE = """
method tall {
    param M[2 * d_h, d_h] ~ normal
    param N[2 * d_h, d_h] ~ normal
    position attn.q
    composition h = h + transpose(orthonormal(M)) @ (N @ h)
}
"""


def test_a_method_that_suits_no_small_site() -> None:
    with pytest.raises(PeftError) as caught:
        compare(NOWHERE, load_reference(NOWHERE), examples=2)
    assert caught.value.code == "V812"


def test_a_large_fixed_rank_finds_a_site_that_is_large_enough() -> None:
    subject = Subject("loreft", args={"r": 11})
    assert compare(subject, load_reference("loreft"), examples=2).failure is None


def test_what_the_equations_make_nothing_is_not_held_to_rounding() -> None:
    """The one gate that is kept is divided by itself: no gradient reaches the router."""
    adapter = Subject("perft").build({"M": 4, "k": 1, "r": 1})
    sizes = dict.fromkeys(("heads", "kv_heads", "d_head", "batch", "layers"), 1)
    sizes |= {"d_x": 4, "d_h": 4, "vocab": 4, "tokens": 3, "keys": 3, "layer": 0}
    case = SiteCase(
        "ffn", adapter.uses[0].label, sizes, {"M": 4, "k": 1, "r": 1}, dtype="float32", seed=1
    )
    reference = load_reference(Path(__file__).parents[1] / "references" / "perft.py")
    assert difference(place(Subject("perft"), case), reference) < 2e-5

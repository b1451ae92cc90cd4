"""What a spec declares may be called like something that a site has; the two are kept apart."""

from pathlib import Path

import pytest

from peftlang.diagnostics import PeftError
from peftlang.verifying import compare, load_reference
from peftlang.verifying.drawing import site_cases
from peftlang.verifying.search import search
from peftlang.verifying.site_case import PlacedMethod
from peftlang.verifying.subject import Subject

BIAS = """
method shift {
    param b[d_h] ~ zeros
    position    attn.q, norm
    composition h = h + b
}
"""
QUERY = """
method scaled {
    param q[heads, d_head]   ~ ones
    param W_k[heads, d_head] ~ zeros
    position    attn.core
    composition h = q * h + W_k
}
"""
STREAM = """
method beside {
    param resid[d_h] ~ ones
    position    attn
    composition h = h + resid * h
}
"""


def reference(folder: Path, body: str) -> Path:
    path = folder / "ref.py"
    path.write_text(body)
    return path


@pytest.mark.parametrize(
    ("spec", "right", "wrong"),
    [
        (BIAS, "def reference(params, h): return h + params.b", "params.b.detach()"),
        (
            QUERY,
            "def reference(params, q, h): return params.q * h + params.W_k",
            "params.q.detach()",
        ),
        (
            STREAM,
            "def reference(params, resid, h): return h + params.resid * h",
            "params.resid.detach()",
        ),
    ],
)
def test_a_right_reference_is_not_accused_and_a_wrong_one_is_found(
    spec: str, right: str, wrong: str, tmp_path: Path
) -> None:
    agreeing = load_reference(reference(tmp_path, right))
    assert compare(spec, agreeing, examples=15).failure is None
    tensor = wrong.removesuffix(".detach()")
    assert tensor in right
    differing = load_reference(reference(tmp_path, right.replace(tensor, wrong)))
    failure = compare(spec, differing, examples=15).failure
    assert failure is not None
    assert str(failure).startswith(f"gradient of {tensor.removeprefix('params.')}[")


def test_one_that_is_written_to_is_still_found(tmp_path: Path) -> None:
    writes = "params.b.data += 1", "b is not None and b.data.add_(1)"
    for body in (f"{one}; return h + params.b" for one in writes):
        path = reference(tmp_path, f"def reference(params, h, b):\n    {body}\n")
        with pytest.raises(PeftError) as caught:
            compare(BIAS.replace(", norm", ""), load_reference(path), examples=20)
        assert caught.value.code == "V808"


def test_a_tensor_called_b_asks_for_no_bias() -> None:
    biases: set[bool] = set()

    def noted(placed: PlacedMethod) -> float:
        biases.add(placed.case.bias)
        return 0.0

    search(site_cases(Subject(BIAS)), noted, examples=20)
    assert biases == {False, True}

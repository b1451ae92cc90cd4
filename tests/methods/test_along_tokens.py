"""Methods along tokens, attention prefixes and prompts, against their references at one site."""

import pytest

from peftlang.verifying import compare, load_reference
from peftlang.verifying.checks.equals_reference import difference
from peftlang.verifying.site_case import SiteCase, place
from peftlang.verifying.subject import Subject
from tests.oracles.plain import REFERENCES

SPECS = (
    *("pasta", "convpass", "prefix_mlp", "control_prefixes", "llama_adapter", "llama_adapter_v2"),
    *("p_tuning", "meet", "deep_prompts"),
)


@pytest.mark.parametrize("spec", SPECS)
def test_equals_its_reference(spec: str) -> None:
    found = compare(spec, load_reference(str(REFERENCES / f"{spec}.py")), examples=12)
    assert found.failure is None
    assert found.examples == 12


@pytest.mark.parametrize("causal", [True, False])
def test_a_conformer_adapter_sees_what_its_site_sees(causal: bool) -> None:
    """At sites large enough that a norm along the sequence has a gradient at all."""
    sizes = {"d_x": 6, "d_h": 5, "heads": 1, "kv_heads": 1, "d_head": 1, "layers": 1, "layer": 0}
    sizes |= {"vocab": 3, "batch": 2, "tokens": 7, "keys": 7}
    where = SiteCase("ffn", "conformer_adapter", sizes, {"r": 4, "n": 4}, causal=causal)
    reference = load_reference(str(REFERENCES / "conformer_adapter.py"))
    assert difference(place(Subject("conformer_adapter"), where), reference) < 1e-9

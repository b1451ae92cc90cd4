"""Warnings: what works, and is probably not meant."""

import pytest

from peftlang.diagnostics import Diagnostic, Source
from peftlang.lower import check, library_names
from peftlang.lower.load import library_source


def warnings(text: str, code: str) -> list[Diagnostic]:
    found = check([Source("s.peft", text)])
    assert [d for d in found if d.severity == "error"] == []
    return [d for d in found if d.code == code]


HIDING = "method m(%s) { %s position %s composition h = h + %s }"


@pytest.mark.parametrize(
    ("hypers", "declared", "position", "added", "hidden"),
    [
        ("", "param b[d_h] ~ zeros", "attn.q", "b", "its bias"),
        ("", "param b[d_h] ~ zeros", "norm", "b", "its bias"),
        ("", "param s ~ zeros let b = s + 1", "linear", "b * h", "its bias"),
        ("b: float = 2.0", "param s[d_h] ~ zeros", "attn.q", "b * s", "its bias"),
        ("", "param q[heads, d_head] ~ zeros", "attn.core", "q", "its queries"),
        ("", "param s ~ zeros buffer v[d_head] ~ ones", "attn.core", "s * v * h", "its values"),
        ("", "param resid[d_h] ~ zeros", "ffn", "resid", "the residual stream"),
    ],
)
def test_a_name_that_hides_what_the_site_has(
    hypers: str, declared: str, position: str, added: str, hidden: str
) -> None:
    text = HIDING % (hypers, declared, position, added)
    (found,) = warnings(text, "N114")
    assert found.message.endswith(f"hides what the site has of that name, {hidden}")
    assert found.help is not None
    assert found.span is not None
    assert text[found.span.start : found.span.end] in ("b", "q", "v", "resid")


@pytest.mark.parametrize(
    ("hypers", "declared", "position", "added"),
    [
        ("", "param b[d_h] ~ zeros", "ffn", "b"),
        ("", "param q[d_h] ~ zeros", "attn.q", "q"),
        ("b: int = 2", "param s[d_h / b, b] ~ zeros", "attn.q", "reshape(s, d_h)"),
        ("", "param s[d_h] ~ zeros", "attn.q", "s + b"),
    ],
)
def test_names_that_hide_nothing(hypers: str, declared: str, position: str, added: str) -> None:
    assert warnings(HIDING % (hypers, declared, position, added), "N114") == []


def test_where_only_one_of_the_positions_has_the_name() -> None:
    text = HIDING % ("", "param b[d_h] ~ zeros", "attn.q, ffn", "b")
    (found,) = warnings(text, "N114")
    assert found.message.endswith("its bias (at `attn.q`)")


@pytest.mark.parametrize("name", library_names())
def test_the_library_gives_none(name: str) -> None:
    source = library_source(name)
    assert source is not None
    assert check([source]) == []

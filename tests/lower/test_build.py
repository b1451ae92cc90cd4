"""Building: arguments, positions and clauses replaced, and the text that says it all again."""

from pathlib import Path
from typing import Any

import pytest

from peftlang.diagnostics import Source
from peftlang.lower import SpecError, build, check, library_names, load
from tests.lower import dumps

GOLDEN = sorted((Path(__file__).parent / "golden" / "right").glob("*.peft"))

TWO = """
method scale(s: float = 2.0, n: int) {
    param g[n, d_h] ~ ones
    position attn, ffn
    function delta = s * sum(g, over n) * h
}
method other(r: int = 4, act: fn = gelu, note: str = "a", on: bool = true) {
    param m[d_h] ~ ones
    composition h = act(m) * h
}
"""


def failure(*args: Any, **keywords: Any) -> SpecError:
    with pytest.raises(SpecError) as error:
        build(*args, **keywords)
    return error.value


def again(source: str, name: str) -> str:
    return dumps.adapter(build(load(source + "\n")))


@pytest.mark.parametrize("spec", [*library_names(), *GOLDEN], ids=lambda s: Path(s).stem)
def test_the_self_contained_text_builds_the_same(spec: str | Path) -> None:
    adapter = build(load(spec))
    assert "import" not in adapter.source.split("{")[0].split('"""')[-1]
    once = build(load(adapter.source))
    assert dumps.adapter(once) == dumps.adapter(adapter)
    assert once.source == adapter.source
    assert [d for d in check([Source("s", adapter.source)]) if d.severity == "error"] == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora", {"args": {"r": "16", "alpha": 3}, "at": "attn.o in layers[-4..]"}),
        ("lora", {"overrides": ["insertion=sequential"]}),
        ("lora", {"overrides": ["composition h = h + 2 * delta", "sharing A, B across layers"]}),
        ("lora", {"overrides": ["function = delta = B @ gelu(A @ x), penalty sum(A)"]}),
        ("vera", {"overrides": ["sharing none"]}),
        (
            "prefix",
            {"overrides": ["composition k = concat(P_v, k), composition v = concat(P_k, v)"]},
        ),
        ("prefix_gated", {"args": {"l": 3}, "at": "attn.core in decoder"}),
        ("houlsby", {"args": {"act": "relu"}, "at": '"encoder.*" where d_h > 8'}),
    ],
)
def test_changes_are_in_the_text(name: str, changes: dict[str, Any]) -> None:
    adapter = build(load(name), **changes)
    assert dumps.adapter(adapter) != dumps.adapter(build(load(name)))
    assert dumps.adapter(build(load(adapter.source))) == dumps.adapter(adapter)


def test_a_default_may_read_earlier_arguments() -> None:
    spec = load(
        "method m(r: int = 4, alpha: float = 2 * r ** 2 / sqrt(4)) {\n"
        "    param A[r, d_h] ~ ones\n    position ffn\n"
        "    function delta = alpha * sum(A, over r)\n}\n"
    )
    assert build(spec).uses[0].args == {"r": 4, "alpha": 16.0}
    assert build(spec, args={"r": 8}).uses[0].args == {"r": 8, "alpha": 64.0}


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ({}, "N111"),
        ({"n": "x"}, "T204"),
        ({"n": 1.5}, "T204"),
        ({"n": True}, "T204"),
        ({"n": 0}, "T205"),
        ({"n": -3}, "T205"),
        ({"n": 2, "s": "nan"}, "T204"),
        ({"n": 2, "s": float("inf")}, "T204"),
        ({"n": 2, "t": 1}, "N110"),
        ({"n": 10**30}, "T204"),
    ],
)
def test_wrong_arguments(args: dict[str, Any], code: str) -> None:
    error = failure(load(TWO), "scale", args)
    assert error.code == code, str(error)


@pytest.mark.parametrize("given", [{"n": 2}, {"n": "2", "s": "2"}, {"s": 2, "n": 2}])
def test_text_and_values_are_the_same(given: dict[str, Any]) -> None:
    assert build(load(TWO), "scale", given).uses[0].args == {"s": 2.0, "n": 2}


def test_a_position_is_needed() -> None:
    error = failure(load(TWO), "other")
    assert error.code == "M309"
    assert build(load(TWO), "other", at="norm").uses[0].selector.targets[0].text == "norm"


@pytest.mark.parametrize(
    ("args", "expected"),
    [({"act": "relu"}, "relu"), ({"act": "tanh", "on": "false", "note": 3}, "tanh")],
)
def test_functions_are_fixed(args: dict[str, Any], expected: str) -> None:
    use = build(load(TWO), "other", args, at="ffn").uses[0]
    assert f"{expected}(m)" in dumps.expression(use.method.compositions[0].value)


@pytest.mark.parametrize("act", ["sqrt", "gelu(", "softmax", 'x"y'])
def test_not_every_function_is_elementwise(act: str) -> None:
    assert failure(load(TWO), "other", {"act": act}, at="ffn").code == "T204"


def test_which_one() -> None:
    error = failure(load(TWO))
    assert error.code == "M310"
    assert "`scale`, `other`" in error.message
    error = failure(load(TWO), "scael")
    assert (error.code, error.help) == ("N104", "did you mean `scale`?")
    one = load(TWO + "adapter both(n: int = 2) {\n    scale(n = n)\n    other() at norm\n}\n")
    assert build(one).name == "both"
    assert build(one, "scale", {"n": 1}).name == "scale"


@pytest.mark.parametrize(
    ("keywords", "code"),
    [
        ({"at": "atn.q"}, "S401"),
        ({"at": "attn.q } method x {"}, "P"),
        ({"at": "attn.q with insertion sequential"}, "P012"),
        ({"at": ""}, "P"),
        ({"overrides": ["insertion in_series"]}, "M305"),
        ({"overrides": ["let u = 1"]}, "P"),
        ({"overrides": ["composition h = h + delt"]}, "N102"),
        ({"overrides": ["composition W = W + delta"]}, "M303"),
        ({"overrides": [""]}, "P"),
        ({"overrides": ["insertion sequential } adapter b { lora()"]}, "P"),
        ({"at": "ffn.act"}, "S403"),
        ({"at": "attn.core"}, "T201"),
    ],
)
def test_wrong_changes(keywords: dict[str, Any], code: str) -> None:
    error = failure(load("lora"), **keywords)
    assert error.code.startswith(code), str(error)
    assert str(error)


def test_a_change_is_shown_as_it_was_given() -> None:
    error = failure(load("lora"), at="attn.q, attn.w in layers[2..1]")
    assert "<at>:1:9" in str(error)
    assert "adapter" not in str(error)


def test_a_change_for_several_uses() -> None:
    assert failure(load("mam"), at="ffn").code == "M314"
    assert failure(load("bitfit"), overrides=["insertion sequential"]).code == "M314"


def test_labels_and_names() -> None:
    spec = load(
        "from lora import lora as first\nfrom lora import lora as second\n"
        "adapter a {\n first()\n second(r = 2) at ffn.up\n first() at head\n}\n"
    )
    adapter = build(spec)
    assert [use.label for use in adapter.uses] == ["lora", "lora_2", "lora_3"]


def test_methods_of_one_name_from_two_files(tmp_path: Path) -> None:
    text = "method m(s: float = %s) {\n param g[d_h] ~ ones\n composition h = s * g * h\n}\n"
    for name, number in (("one", "1.0"), ("two", "2.0")):
        (tmp_path / f"{name}.peft").write_text(text % number)
    (tmp_path / "main.peft").write_text(
        'from "one.peft" import m\nfrom "two.peft" import m as n\n'
        "adapter a {\n m() at ffn\n n() at attn\n m() at block\n}\n"
    )
    adapter = build(load(tmp_path / "main.peft"))
    assert [(use.label, use.args["s"]) for use in adapter.uses] == [
        ("m", 1.0),
        ("m_2", 2.0),
        ("m_3", 1.0),
    ]
    assert dumps.adapter(build(load(adapter.source))) == dumps.adapter(adapter)


def test_entries_say_what_there_is() -> None:
    spec = load("lora")
    (entry,) = spec.methods
    assert entry.name == "lora"
    assert "Hu et al." in entry.doc
    assert [(h.name, h.kind, h.default) for h in entry.hypers][:2] == [
        ("r", "int", 8),
        ("alpha", "float", 16.0),
    ]
    assert load(TWO).methods[0].hypers[1].default is None


def test_an_adapter_of_training_alone() -> None:
    adapter = build(load("adapter a {\n    train bias, norm.weight in layers[0]\n}\n"))
    assert adapter.uses == ()
    assert [target.kind for target in adapter.train[0].targets] == ["parameter", "parameter"]
    assert [str(selector) for selector in adapter.train] == ["bias, norm.weight in layers[0]"]

"""After a mistake everything else is still read, and each mistake is said once."""

import pytest

from peftlang.diagnostics import Diagnostic
from peftlang.syntax import nodes, parse_text


def read(text: str) -> tuple[dict[str, list[str]], list[Diagnostic]]:
    """For each item that was kept, the kinds of its clauses."""
    file, diagnostics = parse_text(text)
    kept = {
        item.name.text: [type(clause).__name__ for clause in item.clauses]
        for item in file.items
        if not isinstance(item, nodes.Import)
    }
    return kept, diagnostics


WRONG = [
    "parm A ~ zeros",
    "param A = zeros",
    "let a = (b",
    "let a = b c",
    "let a = $",
    "let a = b)",
    "let a = 2r",
    'position "a',
    "carry z",
    "train norm",
    "lora(r = 4) at attn.q",
    '"""A remark."""',
    "let a = method b",
    "let a = " + "(" * 500,
    "let a = " + "-" * 500 + "a",
]


@pytest.mark.parametrize("line", WRONG, ids=lambda line: line[:20])
def test_a_wrong_clause_costs_itself_alone(line: str) -> None:
    text = (
        "method first {\n    let x = 1\n}\n"
        "method m {\n    param B ~ zeros\n    penalty y\n"
        f"    {line}\n    insertion parallel\n    ensure z\n}}\n"
        "method last {\n    let x = 1\n}\n"
    )
    kept, diagnostics = read(text)
    assert kept == {
        "first": ["Let"],
        "m": ["Param", "Penalty", "Insertion", "Ensure"],
        "last": ["Let"],
    }
    assert len(diagnostics) == 1


@pytest.mark.parametrize("line", WRONG[:-2], ids=lambda line: line[:20])
def test_the_last_clause_may_be_the_wrong_one(line: str) -> None:
    kept, diagnostics = read(f"method m {{\n    let x = 1\n    {line}\n}}\nmethod n {{\n}}\n")
    assert kept == {"m": ["Let"], "n": []}
    assert len(diagnostics) == 1


@pytest.mark.parametrize(
    "head",
    ["method (r: int) {", "method m(r int) {", "method m(r: int {", "method m(r: int = ) {"],
)
def test_after_a_wrong_head_the_clauses_are_read(head: str) -> None:
    kept, diagnostics = read(f"{head}\n    let x = 1\n    let y 2\n}}\nmethod n {{\n}}\n")
    assert list(kept.values()) == [["Let"], []]
    assert len(diagnostics) == 2


@pytest.mark.parametrize("junk", ["junk", "}", "= 3 { }", "import torch", "methd x { let y = 1 }"])
def test_what_stands_between_items_costs_no_item(junk: str) -> None:
    kept, diagnostics = read(f"method m {{\n    let x = 1\n}}\n{junk}\nmethod n {{\n}}\n")
    assert kept == {"m": ["Let"], "n": []}
    assert len(diagnostics) == 1


def test_missing_braces_are_put_in() -> None:
    kept, diagnostics = read(
        "method a\n    let x = 1\n}\nmethod b {\n    let y = 2\nadapter c {\n    lora\n"
    )
    assert kept == {"a": ["Let"], "b": ["Let"], "c": ["Use"]}
    assert [diagnostic.code for diagnostic in diagnostics] == ["P010"] * 3


def test_an_unclosed_docstring_ends_at_the_next_item() -> None:
    kept, diagnostics = read('"""Never closed.\nIt (goes on.\n\nmethod m {\n    let x = 1\n}\n')
    assert kept == {"m": ["Let"]}
    assert [diagnostic.code for diagnostic in diagnostics] == ["P003"]


def lost(text: str) -> list[tuple[str, str | None]]:
    """The word and the name of all that was lost, inside of items and between them."""
    file, _ = parse_text(text)
    items = [item for item in file.items if not isinstance(item, nodes.Import)]
    found = [*file.lost, *(one for item in items for one in item.lost)]
    return [(one.word, one.name.text if one.name else None) for one in found]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("param A = zeros", ("param", "A")),
        ("parm A ~ zeros", ("parm", "A")),
        ("let a = (b", ("let", "a")),
        ("tap y = embed", ("tap", "y")),
        ("position attn q", ("position", None)),
        ("let a = b c\n    + d", ("let", "a")),
        ("let λ = b", ("let", None)),
        ("λ", ("", None)),
    ],
)
def test_what_a_mistake_costs_is_said(line: str, what: tuple[str, str | None]) -> None:
    text = f"method n {{\n    let x = 1\n}}\nmethod m {{\n    {line}\n    ensure z\n}}\n"
    file, _ = parse_text(text)
    whole, broken = file.items
    assert isinstance(whole, nodes.Method)
    assert isinstance(broken, nodes.Method)
    assert whole.lost == file.lost == ()
    assert lost(text) == [what]
    (one,) = broken.lost
    assert text[one.span.start : one.span.end] in line


def test_lost_heads_items_and_uses() -> None:
    assert lost("method m(r int, s: float = 2) {\n    let x = r\n}\n") == [
        ("method", "m"),
        ("", "r"),
        ("", "s"),
    ]
    for docstring in ("", '"""About it."""\n'):
        assert lost(f"{docstring}methd m {{\n    let x = 1\n}}\n") == [("methd", "m")]
    assert lost("from lora imprt lora\n") == [("from", None)]
    assert lost("adapter a {\n    lora at attn q\n    bias\n}\n") == [("lora", None)]


def test_nothing_is_lost_where_a_brace_was_put_in() -> None:
    assert lost("method m\n    let x = 1\n") == []


@pytest.mark.parametrize("word", ["let", "param", "method", "from", "}", '"""d"""', "x", "("])
def test_an_error_at_the_end_of_the_text_ends_it(word: str) -> None:
    for text in (word, f"method m {{\n{word}", f"adapter m {{\n{word}", f"method m({word}"):
        _, diagnostics = parse_text(text)
        assert len(diagnostics) <= 3

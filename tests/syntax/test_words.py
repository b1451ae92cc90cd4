"""Words of the language are names wherever a name can stand."""

import pytest

from peftlang.diagnostics import Diagnostic
from peftlang.syntax import nodes, parse_text
from peftlang.syntax.words import CLAUSES, CONNECTORS, ITEMS, RESERVED

WORDS = sorted(
    {*CLAUSES, *CONNECTORS, *ITEMS, *RESERVED, "train", "over", "none", "lambda", "scale"}
)


def method(text: str) -> nodes.Method:
    file, diagnostics = parse_text(text)
    assert diagnostics == []
    (found,) = file.items
    assert isinstance(found, nodes.Method)
    return found


def wrong(text: str) -> list[Diagnostic]:
    return parse_text(text)[1]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_as_a_name(word: str) -> None:
    found = method(
        f"method {word}({word}: int = 8) {{\n"
        f"    param {word}[{word}] ~ {word}({word} = {word})\n"
        f"    let {word} = {word} + {word}[{word}] * f({word}, ({word}))\n"
        f"    function {word} = -{word}\n"
        f"    ensure {word}\n"
        "}\n"
    )
    assert found.name.text == found.parameters[0].name.text == word
    assert [type(clause).__name__ for clause in found.clauses] == [
        "Param",
        "Let",
        "Function",
        "Ensure",
    ]


def test_clauses_may_share_a_line() -> None:
    found = method("method m { position attn.q function delta = x insertion parallel }")
    assert [type(clause).__name__ for clause in found.clauses] == [
        "Position",
        "Function",
        "Insertion",
    ]


@pytest.mark.parametrize("value", ["a +\n b", "a\n + b", "f(a,\n b)", "a @\n\n b", "a[\n1\n]"])
def test_an_expression_may_span_lines(value: str) -> None:
    found = method(f"method m {{\n    let x = {value}\n    let y = 1\n}}\n")
    assert len(found.clauses) == 2


def test_a_scope_reaches_back_to_the_scope_before_it() -> None:
    found = method("method m { position a, b in encoder, c, d except e, f where r > 1 }")
    (position,) = found.clauses
    assert isinstance(position, nodes.Position)
    assert isinstance(position.selector, nodes.Either)
    first, second = position.selector.options
    assert isinstance(first, nodes.Scoped)
    assert isinstance(second, nodes.Scoped)
    assert [type(scope).__name__ for scope in first.scopes] == ["Side"]
    assert [type(scope).__name__ for scope in second.scopes] == ["Except", "Where"]
    excepted = second.scopes[0]
    assert isinstance(excepted, nodes.Except)
    assert isinstance(excepted.selector, nodes.Either)
    assert len(excepted.selector.options) == 2


@pytest.mark.parametrize(
    ("expression", "same"),
    [
        ("a - b - c", "(a - b) - c"),
        ("a @ b @ c", "(a @ b) @ c"),
        ("a + b * c", "a + (b * c)"),
        ("a ** b ** c", "a ** (b ** c)"),
        ("-a ** b", "-(a ** b)"),
        ("a ** -b", "a ** (-b)"),
        ("-a * b", "(-a) * b"),
        ("a < b and c or d", "((a < b) and c) or d"),
        ("a / b * c", "(a / b) * c"),
    ],
)
def test_how_operators_bind(expression: str, same: str) -> None:
    assert method(f"method m {{ let x = {expression} }}") == method(
        f"method m {{ let x = {same} }}"
    )


@pytest.mark.parametrize("mark", ["\ufeff", ""])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("blank", [" ", "\t"])
def test_marks_of_other_editors_change_nothing(mark: str, ending: str, blank: str) -> None:
    text = '"""A\nB."""\nmethod m {\n    let x = a  # c\n}\n'
    other = mark + text.replace("    ", blank).replace("\n", ending)
    assert method(other) == method(text)


def test_no_keyword_inside_an_incomplete_clause_is_swallowed() -> None:
    text = "method m {\n    let x =\n    function delta = x\n    let y = (a\n    let z = 1\n}\n"
    assert [diagnostic.code for diagnostic in wrong(text)] == ["P012", "P008"]


@pytest.mark.parametrize("word", sorted(CLAUSES))
def test_after_with_a_name_in_a_list_is_not_the_next_override(word: str) -> None:
    file, diagnostics = parse_text(
        f"adapter a {{\n    lora at attn.q with sharing A, {word} across model, penalty x\n}}\n"
    )
    assert diagnostics == []
    (adapter,) = file.items
    assert isinstance(adapter, nodes.Adapter)
    (use,) = adapter.clauses
    assert isinstance(use, nodes.Use)
    sharing, penalty = use.overrides
    assert isinstance(sharing, nodes.Sharing)
    assert [name.text for name in sharing.names] == ["A", word]
    assert isinstance(penalty, nodes.Penalty)

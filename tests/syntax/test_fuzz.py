"""No text makes the parser fail, and every tree is printed as a text that means the same."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftlang.diagnostics import Source, render
from peftlang.syntax import format_file, format_text, nodes, parse, parse_text
from tests.syntax import strategies

ROOT = Path(__file__).resolve().parents[2]
VALID = [
    path.read_text("utf-8")
    for path in sorted((Path(__file__).parent / "golden" / "right").glob("*.peft"))
]
SPECS = [path.read_text("utf-8") for path in sorted((ROOT / "specs").glob("*.peft"))]
TOKEN = re.compile(r'"""[\s\S]*?"""|"[^"\n]*"|#[^\n]*|[0-9.]+(?:e-?[0-9]+)?|\w+|\s+|[<>=!]=|\*\*|.')

relaxed = settings(
    deadline=2000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def read(source: Source) -> None:
    """Parse and render: whatever the text, every diagnostic has a place inside it."""
    file, diagnostics = parse(source)
    render(diagnostics)
    for diagnostic in diagnostics:
        assert diagnostic.span is not None
        assert diagnostic.span.end <= len(source.text)
    if not diagnostics:
        formatted = format_file(file)
        assert parse_text(formatted) == (file, [])
        assert format_text(formatted) == formatted


@relaxed
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    read(Source.from_bytes("fuzz.peft", data))


@relaxed
@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    read(Source("fuzz.peft", text))


SOUP = st.sampled_from(
    [
        *strategies.WORDS,
        *("x", "1", "0.5", '"a.*"', '"""d"""', "# c\n", "\n", "\n", "\t", "\r\n", "true", "λ"),
        *"(){}[],:=~+-*/@<>.",
        *("..", "**", "==", "<=", '"', '"""', "lora", "layers"),
    ]
)


@relaxed
@given(st.lists(SOUP, max_size=60), st.sampled_from(["", " "]))
def test_any_soup_of_tokens(tokens: list[str], between: str) -> None:
    read(Source("fuzz.peft", between.join(tokens)))
    read(Source("fuzz.peft", "method m {\n" + between.join(tokens) + "\n}"))
    read(Source("fuzz.peft", "adapter a {\n" + between.join(tokens) + "\n}"))


@relaxed
@given(st.data())
def test_damaged_files(data: st.DataObject) -> None:
    tokens = TOKEN.findall(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        other = data.draw(st.integers(0, len(tokens) - 1))
        match data.draw(st.sampled_from(["delete", "insert", "swap", "cut"])):
            case "delete":
                tokens[at] = ""
            case "insert":
                tokens[at] += data.draw(SOUP)
            case "swap":
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case _:
                tokens[at] = tokens[at][: len(tokens[at]) // 2]
    read(Source("fuzz.peft", "".join(tokens)))


@settings(relaxed, deadline=1000, max_examples=300)
@given(st.data())
def test_specs_with_tokens_missing_or_doubled(data: st.DataObject) -> None:
    """Each text is answered within a second (the deadline), by a tree or by diagnostics."""
    tokens = TOKEN.findall(data.draw(st.sampled_from(SPECS)))
    start, end = sorted(data.draw(st.integers(0, len(tokens))) for _ in range(2))
    part, gap = tokens[start:end], data.draw(st.sampled_from([" ", "\n"]))
    texts = {
        "prefix": tokens[:end],
        "deletion": tokens[:start] + tokens[end:],
        "duplication": [*tokens[:end], gap, *part, *tokens[end:]],
        "repetition": [*tokens[:start], *[*part, gap] * 3, *tokens[end:]],
    }
    read(Source("fuzz.peft", "".join(texts[data.draw(st.sampled_from(list(texts)))])))


@pytest.mark.parametrize("sign", [".", ",", "(", ")", "[", "]", "{", "}", "~", "=", ":", "@"])
def test_specs_without_any_of_one_sign(sign: str) -> None:
    for text in SPECS:
        for instead in ("", " ", "\n", sign + sign):
            start = time.process_time()
            read(Source("fuzz.peft", text.replace(sign, instead)))
            assert time.process_time() - start < 1.0


@relaxed
@given(st.data())
def test_comments_survive_anywhere(data: st.DataObject) -> None:
    tokens = TOKEN.findall(data.draw(st.sampled_from(VALID)))
    for number in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        tokens[at] += f"# remark {number}\n"
    text = "".join(tokens)
    file, diagnostics = parse_text(text)
    assert not diagnostics
    formatted = format_text(text)
    assert format_text(formatted) == formatted
    again, _ = parse_text(formatted)
    assert again == file
    assert sorted(c.text for c in again.comments) == sorted(c.text for c in file.comments)


@relaxed
@given(strategies.files)
def test_every_tree_is_printed_and_read_back(file: nodes.File) -> None:
    text = format_file(file)
    again, diagnostics = parse_text(text)
    assert not diagnostics, text + render(diagnostics)
    assert again == file, text
    assert format_text(text) == text

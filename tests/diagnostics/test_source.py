"""Offsets, lines and columns."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlang.diagnostics import Source, Span


@given(st.text(st.sampled_from("ab\n\r漢"), max_size=40), st.integers(0, 45))
def test_line_and_column_agree_with_counting(text: str, offset: int) -> None:
    inside = min(offset, len(text))
    line, column = Source("a", text).position(offset)
    assert line == text.count("\n", 0, inside) + 1
    assert column == inside - (text.rfind("\n", 0, inside) + 1) + 1


def test_the_span_of_a_line_has_no_ending() -> None:
    source = Source("a", "one\r\ntwo\n")
    lines = [source.slice(source.line_around(offset)) for offset in range(10)]
    assert lines == ["one"] * 5 + ["two"] * 4 + [""]


@pytest.mark.parametrize(("start", "end"), [(-1, 0), (2, 1)])
def test_a_span_is_an_interval(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not an interval"):
        Span(start, end)


def test_spans_join() -> None:
    assert Span(3, 4).to(Span(0, 1)) == Span(0, 4)


def test_bytes_that_are_not_utf8_stay_where_they_were() -> None:
    assert Source.from_bytes("a", b"a\xffb").text == "a\udcffb"


def test_a_file_is_read_no_further_than_it_need_be(tmp_path: Path) -> None:
    path = tmp_path / "a.peft"
    path.write_bytes(b"x" * 5000)
    source = Source.from_file(path, limit=100)
    assert len(source.text) == 101
    assert source.path == path
    with pytest.raises(FileNotFoundError):
        Source.from_file(tmp_path / "missing.peft")

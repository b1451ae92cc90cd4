"""Files that an editor or a disk has changed: encodings, marks, line endings."""

from peftlang.diagnostics import Source, render
from peftlang.syntax import format_source, parse


def said(data: bytes) -> str:
    return render(parse(Source.from_bytes("a.peft", data))[1])


def test_bytes_that_are_no_text_are_pointed_at() -> None:
    data = b'method m {\n    let x = \xff\xfe1\n    # caf\xe9\n    let y = "\x00"\n}\n'
    assert said(data) == (
        "error[P005]: byte 0xFF is not UTF-8\n"
        " --> a.peft:2:13\n"
        "  |\n"
        "2 |     let x = \ufffd\ufffd1\n"
        "  |             ^^\n"
        "  |\n"
        "help: save the file as UTF-8\n"
        "\n"
        "error[P005]: byte 0xE9 is not UTF-8\n"
        " --> a.peft:3:10\n"
        "  |\n"
        "3 |     # caf\ufffd\n"
        "  |          ^\n"
        "  |\n"
        "help: save the file as UTF-8\n"
        "\n"
        "error[P005]: the control character U+0000 is not text\n"
        " --> a.peft:4:14\n"
        "  |\n"
        '4 |     let y = "\ufffd"\n'
        "  |              ^\n"
        "  |\n"
        "help: take it out\n"
    )


def test_marks_that_turn_the_reading_around_are_refused() -> None:
    assert "U+202E is not text" in said("# a \u202e remark\n".encode())


def test_a_mark_and_windows_line_endings_do_not_move_the_carets() -> None:
    data = b"\xef\xbb\xbfmethod m {\r\n    param A[r] = zeros\r\n}\r\n"
    assert said(data) == (
        "error[P012]: expected `~` before the init, found `=`\n"
        " --> a.peft:2:16\n"
        "  |\n"
        "2 |     param A[r] = zeros\n"
        "  |                ^\n"
        "  |\n"
        "help: write `~`, as in `param A[r, d_x] ~ zeros`\n"
    )


def test_the_formatter_takes_out_what_another_editor_put_in() -> None:
    data = b"\xef\xbb\xbfmethod m {\r\n\tlet x = 1 # c \r\n}\r\n"
    text = format_source(Source.from_bytes("a.peft", data))
    assert text == "method m {\n    let         x = 1  # c\n}\n"


def test_an_empty_file_is_a_file() -> None:
    for data in (b"", b"\n\n", b"\xef\xbb\xbf", b"# nothing yet"):
        assert said(data) == ""
    assert format_source(Source("a.peft", "\n\n")) == ""
    assert format_source(Source("a.peft", "#x")) == "#x\n"

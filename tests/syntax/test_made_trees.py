"""A tree that was changed after it was parsed still has a text."""

from dataclasses import replace

from peftlang.syntax import format_file, format_text, nodes, parse_text

TEXT = """# above
method m(r: int = 2) {
    param A[r, d_x] ~ zeros  # beside

    position attn.q
    function delta = A @ x
}
"""


def test_a_changed_tree_is_printed_without_the_comments_of_its_source() -> None:
    file, diagnostics = parse_text(TEXT)
    assert not diagnostics
    method = file.items[0]
    assert isinstance(method, nodes.Method)
    shorter = replace(method, clauses=method.clauses[:-1])
    printed = format_file(replace(file, items=(shorter,), comments=(), source=None))
    assert "#" not in printed
    again, diagnostics = parse_text(printed)
    assert not diagnostics
    assert again.items == (shorter,)
    assert format_text(printed) == printed

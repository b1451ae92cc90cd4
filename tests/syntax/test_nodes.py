"""Walking any node."""

from pathlib import Path

import pytest

from peftlang.syntax import nodes, parse_text

RIGHT = sorted((Path(__file__).parent / "golden" / "right").glob("*.peft"))


def test_children_are_in_the_order_of_the_text_and_no_more() -> None:
    file, _ = parse_text("method m(r: int = 2) {\n    # c\n    let a = f(b, n = -2)[i] @ W\n}\n")
    (method,) = nodes.children(file)
    name, parameter, let = nodes.children(method)
    assert [type(one).__name__ for one in nodes.children(parameter)] == ["Ident", "Ident", "Number"]
    assert isinstance(name, nodes.Ident)
    kinds = [type(one).__name__ for one in nodes.walk(let)]
    assert kinds == [
        *("Let", "Ident", "Binary", "Index", "Call", "Ident", "Argument", "Name"),
        *("Argument", "Ident", "Unary", "Number", "Name", "Name"),
    ]


def test_a_layer_that_is_both_ends_of_its_range_is_one_child() -> None:
    file, _ = parse_text("method m {\n    position block in layers[3]\n}\n")
    numbers = [node for node in nodes.walk(file) if isinstance(node, nodes.Number)]
    assert [number.value for number in numbers] == [3]


@pytest.mark.parametrize("path", RIGHT, ids=lambda path: path.stem)
def test_a_node_lies_within_its_parent(path: Path) -> None:
    file, _ = parse_text(path.read_text("utf-8"))
    for node in nodes.walk(file):
        for child in nodes.children(node):
            # A docstring stands before its method, and a scope may reach back over a list.
            if not isinstance(child, nodes.Docstring) and not isinstance(node, nodes.Tap):
                assert node.span.start <= child.span.start <= child.span.end <= node.span.end


def test_a_node_cannot_be_changed() -> None:
    file, _ = parse_text("method m {\n}\n")
    with pytest.raises(AttributeError):
        file.items = ()  # type: ignore[misc]

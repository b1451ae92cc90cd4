"""The surface of the language: a tree of nodes, the parser that makes it, the formatter."""

from peftlang.syntax import nodes
from peftlang.syntax.format import format_file, format_source, format_text
from peftlang.syntax.parse import MAX_SIZE, parse, parse_text
from peftlang.syntax.tokens import MAX_ERRORS

__all__ = [
    "MAX_ERRORS",
    "MAX_SIZE",
    "format_file",
    "format_source",
    "format_text",
    "nodes",
    "parse",
    "parse_text",
]

"""The command line, as in `tests/cli`."""

from tests.cli.conftest import peftlang

__all__ = ["peftlang"]

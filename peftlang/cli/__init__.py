"""The `peftlang` command: one file per sub-command, none of which imports torch to start."""

from peftlang.cli.app import main as main

__all__ = ["main"]

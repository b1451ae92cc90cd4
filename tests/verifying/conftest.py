"""Positions are not what is tested here."""

from tests.surveys import surveys_kept

__all__ = ["surveys_kept"]

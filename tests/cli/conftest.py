"""Running the command line in this process."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from peftlang.cli import main


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def peftlang(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `peftlang ARGUMENTS...`."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run

"""CI may not rewrite what it compares with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def collect(*flags: str, ci: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST_")}
    if ci is not None:
        environment["CI"] = ci
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *flags, "tests/house/test_ci_flags.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_ci_refuses_to_rewrite_golden_files() -> None:
    refused = collect("--update-golden", ci="true")
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "CI forbids --update-golden" in refused.stderr


@pytest.mark.parametrize(("flags", "ci"), [(["--update-golden"], None), ([], "true")])
def test_each_alone_is_fine(flags: list[str], ci: str | None) -> None:
    assert collect(*flags, ci=ci).returncode == pytest.ExitCode.OK

"""What starting costs: reading specs never loads a tensor library."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "sympy", "networkx", "numpy", "safetensors")

REPORT = """
import sys
sys.argv = ["peftlang", *{arguments!r}]
from peftlang.cli import main
code = main()
loaded = [name for name in {heavy!r} if name in sys.modules]
print("exit", code, "loaded", loaded, file=sys.stderr)
"""

SPEC = """method tiny(r: int = 4) {
    param A[r, d_x] ~ normal(std = 0.02)
    param B[d_h, r] ~ zeros

    position    attn.q
    function    delta = B @ (A @ x)
    insertion   parallel
    composition h = h + delta
}
"""


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_importing_the_package_is_light(tmp_path: Path) -> None:
    code = f"import sys, peftlang; print([n for n in {HEAVY!r} if n in sys.modules])"
    assert run_python(code, tmp_path).stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [["check", "tiny.peft"], ["fmt", "--check", "tiny.peft"], ["--help"], ["explain", "tiny.peft"]],
)
def test_reading_specs_loads_no_tensor_library(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "tiny.peft").write_text(SPEC)
    done = run_python(REPORT.format(arguments=arguments, heavy=HEAVY), tmp_path)
    assert done.stderr.endswith("exit 0 loaded []\n"), done.stderr


def test_a_wrong_spec_loads_no_tensor_library(tmp_path: Path) -> None:
    (tmp_path / "wrong.peft").write_text(SPEC.replace("A @ x", "A @ y"))
    done = run_python(REPORT.format(arguments=["check", "wrong.peft"], heavy=HEAVY), tmp_path)
    assert done.stderr.endswith("exit 1 loaded []\n"), done.stderr

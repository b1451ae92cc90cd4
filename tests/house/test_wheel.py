"""The wheel: builds, owns one name, and works in a virtual environment of its own."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SMOKE = """
import sys
from importlib import metadata, resources
import peftlang
assert sys.prefix in peftlang.__file__, peftlang.__file__
assert peftlang.__version__ == metadata.version("peftlang")
assert resources.files("peftlang.grammar").joinpath("peft.lark").is_file()
assert resources.files("peftlang.specs").joinpath("lora.peft").is_file()
from peftlang.diagnostics import explain
assert explain("T201").startswith("T201: ")
assert "torch" not in sys.modules
for name in peftlang.__all__:
    getattr(peftlang, name)
assert "torch" in sys.modules
import peftlang.passes
assert sys.prefix in peftlang.passes.__file__
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from an sdist built from a copy of the tree."""
    scratch = tmp_path_factory.mktemp("wheel")
    copy = scratch / "tree"
    left = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "tests", "docs", "out", "build", "dist"
    )
    shutil.copytree(ROOT, copy, ignore=left, symlinks=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", scratch, cwd=copy)
    return next(scratch.glob("peftlang-*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment that holds the wheel alone.

    Its dependencies are this environment's, read through a path file that comes after its own
    site-packages; path files found there are not followed, so an editable install is not seen.
    """
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=True)
    interpreter = home / "bin" / "python"
    run(interpreter, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    own = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    shared = sysconfig.get_path("purelib")
    (Path(own.strip()) / "zz_dependencies.pth").write_text(shared + "\n")
    return interpreter


def test_the_wheel_owns_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"peftlang"}


def test_the_wheel_holds_what_the_tree_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if n.startswith("peftlang/")}
    expected = {
        f"peftlang/{path.relative_to(ROOT / 'peftlang')}"
        for path in (ROOT / "peftlang").rglob("*")
        if path.suffix in {".py", ".typed", ".md"}
    }
    for top in ("grammar", "passes", "specs"):
        kept = {".py", ".peft", ".lark"}
        files = [p for p in (ROOT / top).rglob("*") if p.suffix in kept]
        expected |= {f"peftlang/{path.relative_to(ROOT)}" for path in files}
    assert held >= expected, sorted(expected - held)


def test_the_installed_package_works(python: Path, tmp_path: Path) -> None:
    run(python, "-W", "ignore", "-c", SMOKE, cwd=tmp_path)


def test_the_installed_command_works(python: Path, tmp_path: Path) -> None:
    command = python.parent / "peftlang"
    assert run(command, "--version", cwd=tmp_path).startswith("peftlang ")
    found = run(
        python, "-c", "import peftlang.specs as s; print(*s.__path__)", cwd=tmp_path
    ).strip()
    run(command, "check", *sorted(Path(found).glob("*.peft")), cwd=tmp_path)

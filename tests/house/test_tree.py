"""The tree itself: packages, sizes, markers."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOPS = {"grammar": "peftlang.grammar", "passes": "peftlang.passes", "specs": "peftlang.specs"}
MOST_LINES = 400


def declared() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["tool"]["setuptools"]  # type: ignore[no-any-return]


def on_disk() -> set[str]:
    def below(top: Path, name: str) -> set[str]:
        return {
            ".".join([name, *init.parent.relative_to(top).parts])
            for init in top.rglob("__init__.py")
            if not any(parent.is_symlink() for parent in init.parents if top in parent.parents)
        }

    found = below(ROOT / "peftlang", "peftlang")
    for top, name in TOPS.items():
        found |= below(ROOT / top, name)
    return found


def test_the_package_list_is_what_is_on_disk() -> None:
    assert set(declared()["packages"]) == on_disk()  # type: ignore[call-overload]


def test_the_top_level_folders_are_linked_into_the_package() -> None:
    mapping = declared()["package-dir"]
    assert isinstance(mapping, dict)
    for top, name in TOPS.items():
        link = ROOT / "peftlang" / top
        assert link.is_symlink(), f"{link} must be a symlink for static checkers"
        assert link.readlink() == Path("..") / top
        assert mapping[name] == top


def test_data_files_are_declared() -> None:
    data = declared()["package-data"]
    assert isinstance(data, dict)
    for package, folder, beside in (
        ("grammar", "grammar", ".md"),
        ("specs", "specs", ".md"),
        ("diagnostics.codes", "peftlang/diagnostics/codes", None),
    ):
        patterns = data[f"peftlang.{package}"]
        for path in (ROOT / folder).iterdir():
            known = path.suffix in {".py", ".pyc", beside} or path.name == "__pycache__"
            assert known or any(path.match(p) for p in patterns), path


def tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", pattern], cwd=ROOT, check=False, capture_output=True
    )
    if listed.returncode == 0 and listed.stdout:
        names = [name for name in listed.stdout.decode().split("\0") if name]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    hidden = {".git", ".venv", "build", "dist"}
    return [p for p in ROOT.rglob(pattern) if p.is_file() and not hidden & set(p.parts)]


def test_no_file_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked("*.py")
        if (lines := len(path.read_text("utf-8").splitlines())) > MOST_LINES
    }
    assert not long, f"past {MOST_LINES} lines a file wants splitting: {long}"


def test_every_python_module_of_the_package_has_a_docstring() -> None:
    for path in tracked("*.py"):
        if path.relative_to(ROOT).parts[0] in {"peftlang", "passes", "specs", "grammar"}:
            text = path.read_text("utf-8").lstrip()
            assert text.startswith('"""'), path


def test_names_say_what_a_thing_is() -> None:
    vague = re.compile(r"^\s*class (\w*(?:Manager|Helper|Utils|Base))\b", re.MULTILINE)
    for path in tracked("*.py"):
        assert not vague.findall(path.read_text("utf-8")), path


def test_nothing_names_one_machine_or_a_day_after() -> None:
    tied = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w|\b(?:TODO|FIXME)\b(?!\|)")
    here = Path(__file__).resolve()
    for path in tracked("*"):
        if path != here and path.suffix in {
            ".py",
            ".md",
            ".peft",
            ".toml",
            ".txt",
            ".lark",
            ".json",
        }:
            found = tied.search(path.read_text("utf-8"))
            assert not found, f"{path}: {found}"


def test_the_typing_marker_ships() -> None:
    assert (ROOT / "peftlang" / "py.typed").is_file()


def test_ci_runs_what_the_readme_says() -> None:
    readme, script = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in ("make demo", "make test"):
        assert command in readme
        assert command in script


def test_specs_are_in_their_one_layout() -> None:
    from peftlang.syntax import format_text

    for path in [*tracked("specs/*.peft"), *tracked("examples/**/*.peft")]:
        text = path.read_text("utf-8")
        assert format_text(text) == text, f"{path}: run `peftlang fmt {path}`"

"""Imports: what is found, what is refused, and that nothing outside is read."""

from pathlib import Path

import pytest

from peftlang.diagnostics import CODES, Source
from peftlang.lower import SpecError, build, check, library_names, load

LORA = """method lora(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
"""
USE = "adapter a {\n    lora(r = 4)\n}\n"


def codes(path: Path) -> list[str]:
    return [diagnostic.code for diagnostic in check([path])]


def written(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.peft").write_text(text, encoding="utf-8")
    return folder / "main.peft"


def test_beside_and_below_and_back_up(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    written(tmp_path / "sub", inner='from "../lora.peft" import lora\n' + USE)
    main = written(
        tmp_path, lora=LORA, main='from "sub/inner.peft" import a as b\nadapter c { b() }'
    )
    assert [use.label for use in build(load(main)).uses] == ["lora"]


def test_a_file_that_is_imported_twice_is_read_once(tmp_path: Path) -> None:
    again = LORA.replace("method lora", "method again")
    main = written(
        tmp_path,
        lora=LORA + again,
        main='from "lora.peft" import lora\nfrom "./lora.peft" import again\n'
        "adapter a {\n lora()\n again()\n}",
    )
    assert codes(main) == []


def test_a_circle_is_shown(tmp_path: Path) -> None:
    main = written(
        tmp_path,
        main='from "one.peft" import a\nadapter m { a() }',
        one='from "two.peft" import b\nadapter a { b() }',
        two='from "main.peft" import m\nadapter b { m() }',
    )
    found = next(d for d in check([main]) if d.code == "N108")
    assert "`main.peft` -> `one.peft` -> `two.peft` -> `main.peft`" in found.message


def test_a_file_that_imports_itself(tmp_path: Path) -> None:
    main = written(tmp_path, main='from "main.peft" import lora as other\n' + LORA)
    assert "N108" in codes(main)


@pytest.mark.parametrize(
    "path",
    [
        "../out.peft",
        "/etc/passwd",
        "sub/../../out.peft",
        "..",
        "C:\\\\x.peft",
        "link.peft",
        "folder/out.peft",
    ],
)
def test_nothing_outside_of_the_folder_is_read(tmp_path: Path, path: str) -> None:
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "out.peft").write_text(LORA)
    (inside / "link.peft").symlink_to(tmp_path / "out.peft")
    (inside / "folder").symlink_to(tmp_path)
    main = written(inside, main=f'from "{path}" import lora\n' + USE)
    assert codes(main) == ["N106"]


def test_a_missing_file_has_a_nearest_name(tmp_path: Path) -> None:
    main = written(tmp_path, lora=LORA, main='from "lroa.peft" import lora\n' + USE)
    (found,) = check([main])
    assert (found.code, found.help) == ("N105", "did you mean `lora.peft`?")


def test_a_quoted_path_is_proposed_for_a_neighbour(tmp_path: Path) -> None:
    main = written(tmp_path, mine=LORA, main="from mine import lora\n" + USE)
    (found,) = check([main])
    assert found.code == "N105"
    assert found.help is not None
    assert '`from "mine.peft"`' in found.help


def test_a_text_has_no_folder() -> None:
    (found,) = check([Source("<text>", 'from "lora.peft" import lora\n' + USE)])
    assert found.code == "N105"
    assert "no folder" in found.message


@pytest.mark.parametrize(
    "data",
    [b"method m \xff {}", b"\x00\x01\x02", b" " * (1 << 20) + b"x" * 10, "\ufeffmethod".encode()],
    ids=["not-utf8", "binary", "too-large", "bom"],
)
def test_what_is_no_text_is_a_diagnostic(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.peft").write_bytes(data)
    main = written(tmp_path, main='from "bad.peft" import lora\n' + USE)
    found = check([main])
    assert found
    assert {d.code for d in found} <= set(CODES)
    assert str(found[0].source and found[0].source.name).endswith("bad.peft")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "lora.peft").mkdir()
    main = written(tmp_path, main='from "lora.peft" import lora\n' + USE)
    assert codes(main) == ["N105"]


def test_a_name_that_is_imported_twice(tmp_path: Path) -> None:
    text = 'from lora import lora\nfrom "lora.peft" import lora\n' + USE
    assert codes(written(tmp_path, lora=LORA, main=text)) == ["N101"]


def test_errors_of_imported_files_are_told_in_their_place(tmp_path: Path) -> None:
    wrong = LORA.replace("A @ x", "A @ y")
    main = written(tmp_path, lora=wrong, main='from "lora.peft" import lora\n' + USE)
    (found,) = check([main])
    assert found.code == "N102"
    assert found.source is not None
    assert found.source.name.endswith("lora.peft")


def test_many_files(tmp_path: Path) -> None:
    for number in range(300):
        text = f'from "f{number + 1}.peft" import a as b\nadapter a {{ b() }}'
        (tmp_path / f"f{number}.peft").write_text(text)
    found = check([tmp_path / "f0.peft"])
    assert "more than 256 files are imported" in {d.message for d in found}


@pytest.mark.parametrize("name", library_names())
def test_the_library_is_right(name: str) -> None:
    spec = load(name)
    assert spec.warnings == ()
    assert spec.main().doc


@pytest.mark.parametrize("name", ["lroa", "no/such.peft", "", "..", "specs/lora.peft\0"])
def test_no_such_spec(name: str) -> None:
    with pytest.raises(SpecError) as error:
        load(name)
    assert error.value.code == "D601"
    if name == "lroa":
        assert error.value.help == "did you mean `lora`?"

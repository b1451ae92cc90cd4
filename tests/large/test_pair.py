"""A model that several processes share: losses and gradients are those of one process."""

import json
import subprocess
import sys

import pytest

REFUSED = {
    "save_fails_for_all": "D604",
    "heads_apart": "R534",
    "words_apart": "R534",
    "parts_after": "R534",
}
ROUGH = {"half_precision_after": 0.1, "half_precision_before": 0.1}

CLOSE = 2e-5

PARTS = ("lora", "dora", "houlsby", "vera", "parallel_adapter")
RIGHT = [
    "shards_after",
    "shards_before",
    "root_alone",
    "meta",
    "meta_and_load",
    "save",
    "distributed_checkpoint",
    "adapted_again_in_shards",
    "merged_in_shards",
    "parts_follow",
    "save_parts",
    *(f"styles_{spec}" for spec in PARTS),
    *(f"plan_{spec}" for spec in PARTS),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float | str]:
    folder = tmp_path_factory.mktemp("pair")
    command = [sys.executable, "-m", "tests.large.pair"]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(folder / "meeting"), str(folder)],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    printed = []
    try:
        for process in running:
            out, err = process.communicate(timeout=400)
            assert process.returncode == 0, err[-2000:]
            printed.append(out)
    finally:
        for process in running:
            process.kill()
    result: dict[str, float | str] = json.loads(printed[0].strip().splitlines()[-1])
    return result


@pytest.mark.parametrize("name", [*RIGHT, *ROUGH])
def test_it_is_right(name: str, found: dict[str, float | str]) -> None:
    error = found[name]
    assert isinstance(error, float), error
    assert error < ROUGH.get(name, CLOSE)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str, found: dict[str, float | str]) -> None:
    assert found[name] == REFUSED[name]


def test_every_check_is_looked_at(found: dict[str, float | str]) -> None:
    assert found.keys() == {*RIGHT, *ROUGH, *REFUSED}

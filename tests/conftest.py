"""Options that every test shares."""

import os

import pytest

# No test reaches the network: a hub id that is not on disk is an error at once.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def results_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `verify` keeps is neither read from the user's cache folder nor written there."""
    os.environ["PEFTLANG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the expected outputs of golden tests (forbidden in CI)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("CI forbids --update-golden: a golden file is reviewed text")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether this run rewrites the expected outputs."""
    return bool(request.config.getoption("--update-golden"))

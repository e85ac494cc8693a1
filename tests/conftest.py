"""What holds for every test: no model hub is asked, and the user's own cache of it is not looked into."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# huggingface_hub reads both when it is imported: they are set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="mlx-chandra-hub-")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a run that skips a test has failed")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In `make parity` every library to compare with is installed: a skipped test hides a broken import."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--no-skips") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def empty_hub_cache() -> Iterator[None]:
    """Removes the hub cache of this run, which nothing should have been written to."""
    yield
    folder = Path(os.environ["HF_HOME"])
    for entry in sorted(folder.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    folder.rmdir()

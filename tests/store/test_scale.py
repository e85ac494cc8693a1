"""Memory doesn't grow with texts, and opening doesn't with pages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_chandra.store import csv_sync, preview
from mlx_chandra.store.store import Store
from tests.cli.program import environment
from tests.store.stores import SETTINGS, opened, read, write

PROGRAM = """
import resource, sys
from pathlib import Path
from mlx_chandra.store.status import statistics
from mlx_chandra.store.store import Start, Store
from tests.store.stores import SETTINGS, opened, page, read

def grown(before=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss):
    scale = 1 if sys.platform == "darwin" else 1024
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale

path, work = Path(sys.argv[1]), sys.argv[2]
if work == "look":
    statistics(str(path), 5)
    with Store.preview(path, SETTINGS) as store:
        assert sum(len(result.text) for name in store.documents() for result in store.document(name)) > 2e7
else:
    with opened(path, Start.OVERWRITE if work == "anew" else Start.RESUME) as store:
        store.plan([f"/{number}.png" for number in range(300)])
        if work != "open":
            for number in range(0, 300, 20):
                store.add([read(f"/{one}.png", "new " * 25_000) for one in range(number, number + 20)])
        store.end_run(complete=True)
print(grown())
"""


def memory(path: Path, work: str) -> int:
    """Bytes by which the process grew at most."""
    command = [sys.executable, "-c", PROGRAM, str(path), work]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_large_table_is_opened_looked_at_and_redone_in_a_fraction_of_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with opened(path) as store:
        for number in range(0, 300, 20):
            store.add([read(f"/{one}.png", "old " * 25_000) for one in range(number, number + 20)])
    assert path.stat().st_size > 25e6
    store_file = Path(f"{path}.journal.sqlite")
    assert memory(path, "look") < 20e6  # at the store as it is
    os.utime(path)
    assert memory(path, "look") < 20e6  # at a copy, joined with the CSV
    store_file.unlink()
    for work in ("open", "again", "anew"):
        assert memory(path, work) < 20e6, work


def test_a_clean_store_of_many_pages_is_opened_without_reading_the_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.csv"
    write(path, [read(f"/in/{number}.png", "text") for number in range(5_000)])
    monkeypatch.setattr(csv_sync, "join", lambda *_: pytest.fail("the CSV was read"))
    monkeypatch.setattr(preview, "join", lambda *_: pytest.fail("the CSV was read"))
    for store in (opened(path), Store.preview(path, SETTINGS)):
        with store:
            assert store.count == 5_000
            assert store.has("/in/4999.png")

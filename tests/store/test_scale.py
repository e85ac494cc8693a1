"""Memory doesn't grow with texts, and opening doesn't with pages."""

import subprocess
import sys
import time
from pathlib import Path

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
        assert sum(len(result.text) for name in store.documents() for result in store.document(name)) > 5e7
else:
    with opened(path, Start.OVERWRITE if work == "anew" else Start.RESUME) as store:
        store.plan([f"/{number}.png" for number in range(600)])
        if work != "open":
            for number in range(0, 600, 20):
                store.add([read(f"/{one}.png", "new " * 30_000) for one in range(number, number + 20)])
        store.end_run(complete=True)
print(grown())
"""


def memory(path: Path, work: str) -> int:
    """Bytes by which the process grew at most."""
    command = [sys.executable, "-c", PROGRAM, str(path), work]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_table_of_70_mb_is_opened_looked_at_and_redone_in_a_fraction_of_that(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with opened(path) as store:
        for number in range(0, 600, 20):
            store.add([read(f"/{one}.png", "old " * 30_000) for one in range(number, number + 20)])
    assert path.stat().st_size > 70e6
    store_file = Path(f"{path}.journal.sqlite")
    for spoil in ("nothing", "edited", "no store"):
        if spoil == "edited":
            content = path.read_bytes()
            path.write_bytes(content[: content.rindex(b"/599.png")])
        elif spoil == "no store":
            store_file.unlink()
        for work in ("look", "open"):
            assert memory(path, work) < 30e6, (spoil, work)
    for work in ("again", "anew"):
        assert memory(path, work) < 30e6, work


def test_a_clean_store_of_many_pages_is_opened_without_reading_the_csv(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write(path, [read(f"/in/{number}.png", "text") for number in range(20_000)])
    statements: list[str] = []
    began = time.process_time()
    with opened(path) as store:
        took = time.process_time() - began
        with store.asking() as database:
            database.set_trace_callback(statements.append)
        assert store.count == 20_000
    assert took < 0.2  # ten times as many: 2 s
    assert opened(path, settings=SETTINGS).count == 20_000

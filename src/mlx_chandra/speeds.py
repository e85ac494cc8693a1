"""What this machine's speed with a model was, remembered in the user's cache folder for the next `--dry-run`.

Real runs leave what they measured over all their pages, `mlx-chandra bench` what it measured for each batch
size. It is kept by machine, model and number format, for one home may be seen from several machines. Nothing
depends on it: a file that is damaged or can't be written is as good as none. Programs that end together write
to it one after the other, as long as that takes no time worth mentioning.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mlx_chandra.errors import OutputBusyError, OutputError
from mlx_chandra.outputs.disk import write_whole
from mlx_chandra.outputs.lock import Lock

CACHE_VARIABLE = "MLX_CHANDRA_CACHE"
_NAME = "speeds.json"
_FORM = 1  # changes when a key comes to mean something else
_PATIENCE = 2.0  # seconds to wait for another program that writes, which takes it milliseconds
_LEAST_PAGES = 5  # of a run that says something about the next one


@dataclass(frozen=True)
class Subject:
    """What was measured: a machine with a model. `dtype` is what the user asked for, None for what fits."""

    machine: str
    model: str
    dtype: str | None


@dataclass(frozen=True)
class RunSpeed:
    """What a real run did, opening files and all.

    Attributes:
        batch_size: What was asked for; None for what fits.
        slots: Pages that were decoded at once.
        pages: Read by the model.
        prompt_seconds: For each token of a prompt.
        answer_seconds: For each token of an answer, of all pages in work together.
        answer_tokens: Of a page, on average, all attempts together.
        day: When, as 2026-11-26.
    """

    batch_size: int | None
    slots: int
    pages: int
    prompt_seconds: float
    answer_seconds: float
    answer_tokens: float
    day: str


@dataclass(frozen=True)
class BenchSpeed:
    """What `mlx-chandra bench` measured.

    Attributes:
        planned: The batch size that `auto` chooses.
        prompt_seconds: For each token of a prompt.
        steps: Batch sizes and the seconds of a decode step with each.
        day: When.
    """

    planned: int
    prompt_seconds: float
    steps: Sequence[tuple[int, float]]
    day: str

    def answer_seconds(self, batch_size: int | None) -> float:
        """For each token of an answer, at the largest measured batch size up to this one."""
        fitting = [step for step in self.steps if step[0] <= (batch_size or self.planned)] or self.steps[:1]
        size, seconds = max(fitting)
        return seconds / size


@dataclass(frozen=True)
class Known:
    """All that is remembered of one subject: its runs, and its bench if there was one."""

    runs: Sequence[RunSpeed] = ()
    bench: BenchSpeed | None = None

    def run(self, batch_size: int | None) -> RunSpeed | None:
        """The run with this batch size."""
        return next((run for run in self.runs if run.batch_size == batch_size), None)


def cache_folder() -> str:
    """Where the program keeps what it can do without: a variable says it, or the system's custom does."""
    from platformdirs import user_cache_dir

    return os.environ.get(CACHE_VARIABLE) or user_cache_dir("mlx-chandra", appauthor=False)


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def recall(subject: Subject) -> Known:
    """What is remembered; nothing where that can't be read."""
    for entry in _entries():
        if entry.get("subject") == asdict(subject):
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                return _known(entry)
    return Known()


def remember_run(subject: Subject, run: RunSpeed) -> None:
    """Keeps what a run measured, unless it is too short to say something beside what is known: a few pages
    that were tried out don't take the place of a night's reading."""
    if run.pages < _LEAST_PAGES:
        return
    with _alone():
        known = recall(subject)
        before = known.run(run.batch_size)
        is_trial = run.pages < 2 * run.slots and before is not None and 4 * run.pages < before.pages
        if not is_trial:
            others = [other for other in known.runs if other.batch_size != run.batch_size]
            _remember(subject, Known([run, *others], known.bench))


def remember_bench(subject: Subject, bench: BenchSpeed) -> None:
    """Keeps what was measured in the place of what was measured before."""
    with _alone():
        _remember(subject, Known(recall(subject).runs, bench))


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """No other program changes the file within the block; unless it can't be locked, or not soon."""
    lock = _lock()
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _lock() -> Lock | None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            os.makedirs(cache_folder(), exist_ok=True)
            return Lock(f"{_path()}.lock", _path(), CACHE_VARIABLE)
        except OutputBusyError:
            if time.monotonic() > end:
                return None
            time.sleep(0.01)
        except (OutputError, OSError):
            return None


def _remember(subject: Subject, known: Known) -> None:
    entry = {
        "subject": asdict(subject),
        "runs": [asdict(run) for run in known.runs],
        "bench": None if known.bench is None else asdict(known.bench),
    }
    others = [other for other in _entries() if other.get("subject") != asdict(subject)]
    content = json.dumps({"form": _FORM, "speeds": [entry, *others]}, indent=1).encode() + b"\n"
    with contextlib.suppress(OutputError, OSError):
        write_whole(_path(), content, str(os.getpid()))


def _known(entry: Mapping[str, Any]) -> Known:
    bench = entry["bench"]
    return Known(
        [RunSpeed(**run) for run in entry["runs"]],
        None if bench is None else BenchSpeed(**bench | {"steps": [(n, s) for n, s in bench["steps"]]}),
    )


def _entries() -> list[Mapping[str, Any]]:
    try:
        with open(_path(), encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return []
    if not isinstance(content, dict) or content.get("form") != _FORM:
        return []
    speeds = content.get("speeds")
    return [e for e in speeds if isinstance(e, dict)] if isinstance(speeds, list) else []


def _path() -> str:
    return os.path.join(cache_folder(), _NAME)

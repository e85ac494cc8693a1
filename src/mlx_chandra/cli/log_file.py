"""Writes `--log-file`: a line of JSON for each event of a run, for programs that watch it.

Lines are appended and given to the system at once, so that the log of a killed run is complete. A log that
can't be written at the start ends the program. Later it is a warning, and reading goes on. Python's logging
isn't used: its handlers print a traceback for each line that they can't write.
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import BinaryIO

from mlx_chandra import __version__
from mlx_chandra.cli.time_left import TimeLeft
from mlx_chandra.documents.page import PageResult
from mlx_chandra.errors import ExitCode, MlxChandraError, OutputError
from mlx_chandra.files.paths import shown_path
from mlx_chandra.reading.progress import Snapshot, Summary

SECONDS_BETWEEN_PROGRESS = 10.0
_NO_SETTINGS = ("command", "config", "show_config")
_OF_PAGE = ("status", "prompt_tokens", "generated_tokens", "finish_reason", "attempts")
_OF_COUNTS = (
    "ok", "failed", "empty", "truncated", "repetition", "error", "copied", "prompt_tokens",
    "generated_tokens",
)  # fmt: skip


class LogFile:
    """The log of one run, and an observer of it. A context manager, which logs the error that ends it.

    Without a path nothing is written. `warn` is called once when the log can't be written any more.
    Raises (on opening): OutputError when the file can't be written.
    """

    def __init__(self, path: str | None, warn: Callable[[str], None]) -> None:
        self._path, self._warn = path, warn
        self._left = TimeLeft()
        self._next = SECONDS_BETWEEN_PROGRESS
        self._warned = self._is_torn = False
        self._file: BinaryIO | None = None
        if path is None:
            return
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (kept open)
            self._is_torn = _ends_within_a_line(self._file)
        except OSError as error:
            remedy = "Choose another --log-file, or leave it out."
            raise OutputError(f"The log {path!r} can't be written: {error.strerror}.", remedy) from error

    def __enter__(self) -> "LogFile":
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if error is not None:
            self.write("error", _error_facts(error))
        if self._file is not None:
            self._file.close()

    def started(self, arguments: argparse.Namespace, results: str) -> None:
        """Log the machine and the run's settings; of a password only that there is one."""
        if self._file is None:  # then MLX isn't needed for this
            return
        from mlx_chandra.engine.device import this_device
        from mlx_chandra.models.backend import current_backend

        device = this_device(current_backend().name)
        facts = {
            "name": device.name,
            "backend": str(device.backend),
            "system": device.host.system,
            "cores": device.host.cores,
            "memory": device.memory,
        }
        settings = {
            name: _shown(name, value) for name, value in vars(arguments).items() if name not in _NO_SETTINGS
        }
        run = {"version": __version__, "process": os.getpid(), "results": shown_path(results)}
        self.write("run_started", {**run, "device": facts, "settings": settings})

    def loaded(self, seconds: float, slots: int) -> None:
        """Log that the model is loaded."""
        self.write("model_loaded", {"seconds": round(seconds, 3), "slots": slots})

    def update(self, now: Snapshot) -> None:
        left, stats = self._left.look(now), now.stats
        if now.seconds < self._next:
            return
        self._next = now.seconds + SECONDS_BETWEEN_PROGRESS
        facts = {
            "ok": now.counts.ok,
            "failed": now.counts.failed,
            "total": now.total,
            "seconds": round(now.seconds, 3),
            "seconds_left": None if left is None else round(left, 1),
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generation_tokens,
            "slots_in_use": stats.active_slots,
            "waiting": stats.waiting,
            "peak_memory": stats.peak_memory,
        }
        self.write("progress", facts)

    def warn(self, message: str) -> None:
        self.write("warning", {"message": message})

    def stored(self, results: Sequence[PageResult]) -> None:
        for result in results:
            facts = {name: getattr(result, name) for name in _OF_PAGE}
            copy_of = None if result.copy_of is None else shown_path(result.copy_of)
            rest = {"seconds": round(result.seconds, 3), "copy_of": copy_of}
            self.write("page_finished", {"page": shown_path(result.page.path), **facts, **rest})

    def ended(self, summary: Summary, documents: str | None, exit_status: int) -> None:
        """Log how the run ended; `documents` is the folder of the documents' files, if any."""
        if documents is not None:
            written, unwritten = summary.documents, summary.unwritten_documents
            folder = shown_path(documents)
            self.write("documents", {"folder": folder, "written": written, "unwritten": unwritten})
        facts = {
            "skipped": summary.skipped,
            "unwritten_texts": summary.unwritten_texts,
            "seconds": round(summary.seconds, 3),
            "stopped": summary.stopped,
            "exit_status": exit_status,
        }
        self.write("run_finished", {name: getattr(summary.counts, name) for name in _OF_COUNTS} | facts)

    def write(self, event: str, facts: Mapping[str, object]) -> None:
        """Append a line."""
        if self._file is None:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = json.dumps({"time": time, "event": event, **facts}, ensure_ascii=False)
        line = text.encode("utf-8", "backslashreplace") + b"\n"  # a lone surrogate as JSON escapes it
        line = b"\n" + line if self._is_torn else line
        try:
            self._is_torn = self._file.write(line) != len(line)
            trouble = "the disk took half a line" if self._is_torn else ""
        except OSError as error:
            trouble = str(error.strerror)
        if trouble and not self._warned:
            self._warned = True
            self._warn(f"The log {self._path} can't be written ({trouble}); the pages are read all the same.")


def _error_facts(error: BaseException) -> Mapping[str, object]:
    message, remedy, status = f"{type(error).__name__}: {error}", "", int(ExitCode.FAILED)
    if isinstance(error, MlxChandraError):
        message, remedy, status = error.message, error.remedy, error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        message, status = "stopped by Ctrl-C", ExitCode.INTERRUPTED
    return {"message": message, "remedy": remedy, "exit_status": int(status)}


def _shown(dest: str, value: object) -> object:
    if dest == "password" and value is not None:
        return "..."
    if isinstance(value, str):
        return shown_path(value)
    return [_shown(dest, item) for item in value] if isinstance(value, list) else value


def _ends_within_a_line(file: BinaryIO) -> bool:
    """Whether a run before was killed within its last line."""
    if not file.seekable() or not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"

"""`mlx-chandra ocr` and `ocr_batch.py`: read documents and page images into a CSV and files beside it."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_chandra import __version__
from mlx_chandra.cli import config, documents, inputs, model, resuming
from mlx_chandra.cli.export import quiet_libraries
from mlx_chandra.cli.options import add_number, batch_size
from mlx_chandra.cli.stopping import Stopping
from mlx_chandra.cli.texts import printable
from mlx_chandra.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from mlx_chandra.cli.log_file import LogFile
    from mlx_chandra.cli.model import ModelOptions, ServiceFactory
    from mlx_chandra.cli.options import Commands
    from mlx_chandra.cli.progress import Screen
    from mlx_chandra.documents.page import PageResult
    from mlx_chandra.documents.pages import Reading
    from mlx_chandra.engine.service import Service
    from mlx_chandra.reading.progress import Observer, Snapshot, Summary
    from mlx_chandra.reading.run import RunSettings

APART = (inputs.ONE_OF, ("overwrite", "retry_errors"), ("overwrite", "rerun"))
"""Options of which only one can hold, besides those that argparse keeps apart."""

_EPILOG = """\
Each page becomes one row of the CSV: image_path, status, ocr_text. The status is ok, error:empty (the model
said nothing), error:truncated (--max-tokens reached) or error:repetition (it repeated itself without end, in
--retries further attempts too; the text is kept), or error:KIND: what was wrong with the page. Page 3 of a
document is called path#page=3.

Exit status: 0 when every page is ok, 1 when some failed, 2 for wrong usage, 130 after Ctrl-C.
A run that was stopped or killed goes on with --resume.

Every option can also be set by an environment variable, MLX_CHANDRA_MAX_TOKENS for --max-tokens, or in the
file that --config names. The command line wins over the environment, and both over the file."""


def add_to(commands: "Commands") -> None:
    """Add the command to the program's."""
    parser = commands.add_parser(
        "ocr",
        help="read documents and page images into a CSV and text files",
        description="Read documents and page images into a CSV and text files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlx-chandra {__version__}")
    inputs.add_to(parser)
    _add_results(parser)
    documents.add_to(parser)
    model.add_to(parser)
    _add_running(parser)


def _add_results(parser: argparse.ArgumentParser) -> None:
    results = parser.add_argument_group("results")
    results.add_argument("--output", "-o", metavar="CSV", help="where the results go; needed")
    resuming.add_to(results)
    texts = results.add_mutually_exclusive_group()
    texts.add_argument("--text-dir", metavar="DIR", help="put text files under DIR, not beside the documents")
    texts.add_argument("--no-text", action="store_true", help="write no text files")
    save = "has no effect: each page is kept as soon as it is read (an option of an earlier script)"
    add_number(results, "--save-every", 1, None, save)


def _add_running(parser: argparse.ArgumentParser) -> None:
    running = parser.add_argument_group("running")
    running.add_argument(
        "--batch-size",
        type=batch_size,
        metavar="N",
        help="pages decoded at once, or auto: what fits the memory (default: auto)",
    )
    workers = "threads that open pages (default: one a core, up to 8)"
    add_number(running, "--workers", 1, None, workers)
    running.add_argument("--verbose", "-v", action="store_true", help="a line for each batch of work")
    running.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be read and what it would take, and do nothing; with --verbose each document",
    )
    running.add_argument(
        "--log-file", metavar="FILE", help="append what happens to FILE, a line of JSON for each event"
    )
    config.add_to(running)


def run(arguments: argparse.Namespace, service_factory: "ServiceFactory | None" = None) -> int:
    """Do what the options say; return the exit status. Raises MlxChandraError."""
    from mlx_chandra.cli.log_file import LogFile
    from mlx_chandra.cli.progress import observer_for

    output, log_file = arguments.output, arguments.log_file
    if output is None:
        raise UsageError("No place for the results was named.", "Name a file: --output results.csv.")
    quiet_libraries()
    if arguments.dry_run:
        return _forecast(arguments)
    if log_file and os.path.realpath(log_file) == os.path.realpath(output):
        raise UsageError("--log-file and --output name the same file.", "Give the log a name of its own.")
    stopping = Stopping()
    with (
        stopping.on_signals(),
        observer_for(arguments.verbose, sys.stderr) as screen,
        LogFile(log_file, screen.warn) as log,
    ):
        return _read(arguments, service_factory or model.open_service, stopping, screen, log)


def _forecast(arguments: argparse.Namespace) -> int:
    from mlx_chandra.cli import dry_run
    from mlx_chandra.store.store import Store

    options, reading = model.options_of(arguments), inputs.reading_of(arguments)
    source = inputs.source_of(arguments)
    start, again = resuming.start_of(arguments)
    documents.settings_of(arguments)  # for its errors
    now, any_settings = options.settings(), again is not None
    with Store.preview(arguments.output, now, start, again, any_settings) as store:
        dry_run.show(source, store, options, reading, arguments.verbose)
    return ExitCode.OK


def _read(
    arguments: argparse.Namespace,
    open_service: "ServiceFactory",
    stopping: Stopping,
    screen: "Screen",
    log: "LogFile",
) -> int:
    from mlx_chandra.reading import run
    from mlx_chandra.store.store import Store

    options, reading = model.options_of(arguments), inputs.reading_of(arguments)
    source, settings = inputs.source_of(arguments), _settings(arguments, reading, options)
    start, again = resuming.start_of(arguments)
    observer, now = _Both(screen, log), options.settings()
    with Store(arguments.output, now, start, again, again is not None) as store:
        if again is None:
            resuming.say_differences(store, now)
        log.started(arguments, store.path)

        def opened() -> "Service":
            began = time.monotonic()
            service = open_service(options)
            stopping.gently()
            log.loaded(time.monotonic() - began, service.slots)
            if now.checkpoint is None:  # it may have been downloaded now
                store.use(options.settings())
            return service

        summary = run.run(source, store, opened, settings, observer, stopping.event)
        warned = len(store.warnings)
    for warning in store.warnings[warned:]:  # of closing it
        observer.warn(warning)
    screen.close()
    folder = None if settings.export is None else settings.export.folder
    return _report(summary, store.path, folder, log)


def _settings(arguments: argparse.Namespace, reading: "Reading", options: "ModelOptions") -> "RunSettings":
    from mlx_chandra.reading.run import RunSettings

    return RunSettings(
        workers=arguments.workers or min(8, os.cpu_count() or 1),
        texts=not arguments.no_text,
        text_dir=arguments.text_dir and os.path.abspath(arguments.text_dir),
        export=documents.settings_of(arguments),
        reading=reading,
        options=options.read_options(),
    )


def _report(summary: "Summary", results: str, folder: str | None, log: "LogFile") -> int:
    """Print and log how the run ended; return the exit status."""
    from mlx_chandra.cli.summary import summary_lines

    for line in summary_lines(summary, results):
        print(line)
    if folder is not None:
        print(f"Documents: {printable(folder)}")
    failed = summary.counts.failed or summary.unwritten_documents
    status = ExitCode.FAILED if failed else ExitCode.OK
    status = ExitCode.INTERRUPTED if summary.stopped else status
    log.ended(summary, folder, status)
    return status


class _Both:
    """The screen and the log as one observer."""

    def __init__(self, screen: "Screen", log: "LogFile") -> None:
        self._observers: Sequence[Observer] = (screen, log)

    def update(self, now: "Snapshot") -> None:
        for observer in self._observers:
            observer.update(now)

    def warn(self, message: str) -> None:
        for observer in self._observers:
            observer.warn(message)

    def stored(self, results: "Sequence[PageResult]") -> None:
        for observer in self._observers:
            observer.stored(results)

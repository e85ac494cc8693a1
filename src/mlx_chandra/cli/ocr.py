"""`mlx-chandra ocr` and `ocr_batch.py`: read documents and page images into a CSV and files beside it."""

import argparse
import logging
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING

from mlx_chandra import __version__
from mlx_chandra.cli import attempts, checkpoint, config, documents, inputs, resuming
from mlx_chandra.cli.numbers import at_least, batch_size
from mlx_chandra.cli.stopping import INTERRUPTED, Stopping

if TYPE_CHECKING:
    from mlx_chandra.cli.log_file import LogFile
    from mlx_chandra.cli.progress import Screen
    from mlx_chandra.cli.reader import ReaderFactory, ReaderOptions
    from mlx_chandra.documents.pages import Reading
    from mlx_chandra.outputs.making import Making
    from mlx_chandra.pipeline import Settings, Summary

Commands = argparse._SubParsersAction  # argparse has no public name for it

SOME_FAILED = 1
APART = (inputs.ONE_OF, ("overwrite", "retry_errors"), ("overwrite", "rerun"))
"""Options of which only one can hold, besides those that argparse keeps apart."""

_EPILOG = """\
Each page becomes one row of the CSV: image_path, status, ocr_text. The status is ok, error:empty (the model
said nothing), error:truncated (--max-tokens reached) or error:repetition (it went in circles, --retries times
more too; the text is kept), or error:KIND: what was wrong with the page. Page 3 of a document is called
path#page=3.

Exit status: 0 when every page is ok, 1 when some failed, 2 for wrong usage, 130 after Ctrl-C.
A run that was stopped or killed goes on with --resume.

Every option can also be set by an environment variable, MLX_CHANDRA_MAX_TOKENS for --max-tokens, or in the
file that --config names. The command line wins over the environment, and both over the file."""


def add_to(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Adds the command to the program's."""
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
    _add_model(parser)
    attempts.add_to(parser)
    _add_running(parser)


def _add_results(parser: argparse.ArgumentParser) -> None:
    results = parser.add_argument_group("results")
    results.add_argument("--output", "-o", metavar="CSV", help="where the results go; needed")
    resuming.add_to(results)
    texts = results.add_mutually_exclusive_group()
    texts.add_argument("--text-dir", metavar="DIR", help="put text files under DIR, not beside the documents")
    texts.add_argument("--no-text", action="store_true", help="write no text files")


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    checkpoint.add_to(model)
    prompt = model.add_mutually_exclusive_group()
    prompt.add_argument(
        "--prompt-type",
        choices=("ocr_layout", "ocr"),
        default="ocr_layout",
        help="ask for HTML with layout boxes, or for HTML alone (default: %(default)s)",
    )
    prompt.add_argument("--prompt", metavar="TEXT", help="ask with words of your own")
    model.add_argument(
        "--max-tokens", type=at_least(1), default=8192, metavar="N", help="longest answer (default: 8192)"
    )
    model.add_argument(
        "--max-size",
        type=at_least(0),
        default=1024,
        metavar="N",
        help="scale larger images down to N pixels on the longest side; 0: never (default: %(default)s)",
    )


def _add_running(parser: argparse.ArgumentParser) -> None:
    running = parser.add_argument_group("running")
    running.add_argument(
        "--batch-size",
        type=batch_size,
        metavar="N",
        help="pages decoded at once, or auto: what fits the memory (default: auto)",
    )
    running.add_argument(
        "--workers",
        type=at_least(1),
        metavar="N",
        help="threads that open pages (default: one a core, up to 8)",
    )
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


def run(arguments: argparse.Namespace, reader_factory: "ReaderFactory | None" = None) -> int:
    """Does what the options say; returns the exit status. Raises MlxChandraError."""
    from mlx_chandra.cli.log_file import log_of
    from mlx_chandra.cli.progress import observer_for

    warnings.filterwarnings("ignore", module=r"(PIL|bs4|chandra|markdownify)\b")  # a page's row says it
    logging.getLogger("pypdfium2").setLevel(logging.ERROR)
    if arguments.dry_run:
        return _foresee(arguments)
    stopping = Stopping()
    with (
        stopping.on_signals(),
        observer_for(arguments.verbose, sys.stderr) as screen,
        log_of(arguments, screen.warn) as log,
    ):
        return _read(arguments, reader_factory, stopping, screen, log)


def _foresee(arguments: argparse.Namespace) -> int:
    from mlx_chandra.cli import dry_run
    from mlx_chandra.cli.reader import making_of

    _check_output(arguments)
    reading = inputs.reading_of(arguments)
    source, options = inputs.source_of(arguments), _reader_options(arguments)
    making = making_of(options, attempts.retries_of(arguments))
    earlier = dry_run.Earlier(arguments.output, making, *resuming.start_of(arguments))
    settings = _settings(arguments, making, reading)
    dry_run.show(source, earlier, settings, options, arguments.verbose)
    return 0


def _read(
    arguments: argparse.Namespace,
    reader_factory: "ReaderFactory | None",
    stopping: Stopping,
    screen: "Screen",
    log: "LogFile | None",
) -> int:
    from mlx_chandra import pipeline
    from mlx_chandra.cli.guesses import remember
    from mlx_chandra.cli.observers import Observers
    from mlx_chandra.cli.progress import printable, summary_line
    from mlx_chandra.cli.reader import making_of, open_engine
    from mlx_chandra.outputs.results_csv import ResultsFile

    _check_output(arguments)
    reading = inputs.reading_of(arguments)
    source = inputs.source_of(arguments)
    options = _reader_options(arguments)
    retries = attempts.retries_of(arguments)
    making = making_of(options, retries)
    settings = _settings(arguments, making, reading)
    start, again = resuming.start_of(arguments)
    with (
        ResultsFile(arguments.output, start, again) as results,
        resuming.journal_of(results, making, only_named=again is not None) as journal,
    ):
        if log is not None:
            log.started(arguments, results.path)

        def opened() -> pipeline.Reader:
            began = time.monotonic()
            reader = (reader_factory or open_engine)(options)
            stopping.gently()
            if log is not None:
                log.loaded(time.monotonic() - began, reader.slots)
            if making.checkpoint is None:  # it may have been downloaded now
                journal.reads_with(making_of(options, retries))
            return reader

        observer = Observers([screen] if log is None else [screen, log])
        summary = pipeline.run(source, results, opened, settings, observer, stopping.event, journal)
    screen.close()
    if observer.last is not None:
        remember(options, observer.last.stats, summary.work, summary.seconds)
    folder = None if settings.documents is None else settings.documents.folder
    print(summary_line(summary, results.path))
    if folder is not None:
        print(f"Documents: {printable(folder)}")
    status = _exit_status(summary)
    if log is not None:
        log.ended(summary, folder, status)
    return status


def _reader_options(arguments: argparse.Namespace) -> "ReaderOptions":
    from mlx_chandra.cli.reader import ReaderOptions

    return ReaderOptions(
        model=arguments.model,
        dtype=arguments.dtype,
        prompt=arguments.prompt,
        prompt_type=arguments.prompt_type,
        max_tokens=arguments.max_tokens,
        max_size=arguments.max_size,
        batch_size=arguments.batch_size,
    )


def _settings(arguments: argparse.Namespace, making: "Making", reading: "Reading") -> "Settings":
    from mlx_chandra.assembly import DocumentSettings
    from mlx_chandra.pipeline import Settings

    export = documents.settings_of(arguments)
    return Settings(
        workers=arguments.workers or min(8, os.cpu_count() or 1),
        texts=not arguments.no_text,
        text_dir=arguments.text_dir and os.path.abspath(arguments.text_dir),
        documents=None if export is None else DocumentSettings(export, making),
        reading=reading,
        retries=attempts.retries_of(arguments),
    )


def _check_output(arguments: argparse.Namespace) -> None:
    if arguments.output is None:
        from mlx_chandra.errors import UsageError

        raise UsageError("Where the results go was not said.", "Name a file: --output results.csv.")


def _exit_status(summary: "Summary") -> int:
    if summary.stopped:
        return INTERRUPTED
    return SOME_FAILED if summary.failed or summary.unwritten_documents else 0

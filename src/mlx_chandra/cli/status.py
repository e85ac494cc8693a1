"""`mlx-chandra status`: how far a collection is, how fast that went, and which pages are slow or failed."""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_chandra.cli.options import add_number
from mlx_chandra.cli.texts import counted, duration, printable

if TYPE_CHECKING:
    from mlx_chandra.cli.options import Commands
    from mlx_chandra.store.status import Statistics, Work

_SOME_FAILED = 10


def add_to(commands: "Commands") -> None:
    """Add the command to the program's."""
    parser = commands.add_parser(
        "status",
        help="count the pages of a CSV by state, with speeds, slow pages and failures",
        description="Count the pages of a results file by state; say how fast they were read, which took "
        "longest, and which failed and why. It can be asked while a run is going on.",
    )
    parser.add_argument("results", metavar="CSV", help="a file that `mlx-chandra ocr` wrote")
    failed = f"name all failed pages, not {_SOME_FAILED} of them"
    parser.add_argument("--failed", action="store_true", help=failed)
    add_number(parser, "--slowest", 0, 5, "name the N slowest pages (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, with all failed pages")


def run(arguments: argparse.Namespace) -> int:
    """Print it; return the exit status. Raises UsageError or OutputError."""
    from mlx_chandra.store.status import statistics

    found = statistics(arguments.results, arguments.slowest)
    if arguments.json:
        print(json.dumps(_record(found), ensure_ascii=True, indent=1), flush=True)
    else:
        print("\n".join(map(printable, _lines(found, arguments.failed))), flush=True)
    return 0


def _record(found: "Statistics") -> dict[str, object]:
    """Everything in JSON's types, with the rates worked out."""
    rates = ("pages_per_second", "tokens_per_second")
    runs = {
        name: work and asdict(work) | {rate: getattr(work, rate) for rate in rates}
        for name, work in (("last", found.last), ("all", found.all))
    }
    return {"mlx_chandra_status": 1, "pages": found.pages, **asdict(found), **runs}


def _lines(found: "Statistics", all_failed: bool) -> Iterator[str]:
    process = f" (process {found.running})" if found.running else ""
    running = "" if found.running is None else f"; a run{process} is going on"
    yield f"{found.path}: {counted(found.pages, 'page')}{running}"
    widest = max(map(len, found.states), default=0)
    # the most first; those of one number by their names
    for state, count in sorted(found.states.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {state:{widest}}  {count:>9,}"
    if not found.has_journal:
        yield from ("", "There is no store beside it, so speeds and slow pages aren't known.")
    if found.last is not None:
        yield ""
        yield from _work(_last(found.last, found.running is not None), found.last)
    if found.all is not None and found.all.runs > 1:
        yield from _work(f"{found.all.runs:,} runs in all", found.all)
    yield from _pages(found, all_failed)


def _last(work: "Work", running: bool) -> str:
    if work.ended is not None:
        return f"Last run, {work.began}"
    return f"This run, since {work.began}" if running else f"Last run, {work.began}, killed"


def _work(title: str, work: "Work") -> Iterator[str]:
    copies = f", {work.copies:,} with another file's result" if work.copies else ""
    took = duration(work.seconds)
    yield f"{title}: {counted(work.pages, 'page')} in {took}, {work.failed:,} failed{copies}"
    yield (
        f"  {work.pages_per_second:.2f} pages/s, {work.tokens_per_second:,.0f} tokens/s; "
        f"{work.prompt_tokens:,} prompt and {work.generated_tokens:,} output tokens; "
        f"{', '.join(work.models)}"
    )


def _pages(found: "Statistics", all_failed: bool) -> Iterator[str]:
    """The slowest and the failed ones, seen from the folder that all of them are in."""
    paths = [slow.path for slow in found.slowest] + [failed.path for failed in found.failed]
    folders = set(map(os.path.dirname, paths))
    common = os.path.commonpath(folders) if folders and all(map(os.path.isabs, folders)) else None
    if found.slowest:
        yield from ("", "Slowest pages:")
    for page in found.slowest:
        again = f" in {page.attempts} attempts" if page.attempts > 1 else ""
        tokens = counted(page.generated_tokens, "token")
        yield f"  {page.seconds:8,.1f} s  {_name(page.path, common)}  {page.status}, {tokens}{again}"
    if found.failed:
        yield from ("", f"Failed pages ({len(found.failed):,}):")
    shown = found.failed if all_failed else found.failed[:_SOME_FAILED]
    for failed in shown:
        yield f"  {_name(failed.path, common)}  {failed.status}"
    if len(shown) < len(found.failed):
        yield f"  ... and {len(found.failed) - len(shown):,} more: --failed names all"


def _name(path: str, folder: str | None) -> str:
    return os.path.relpath(path, folder) if folder else path

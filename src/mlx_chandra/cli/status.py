"""`mlx-chandra status`: how far a collection is, how fast that went, and which pages are slow or failed."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_chandra.cli.options import at_least
from mlx_chandra.cli.texts import counted, duration, printable

if TYPE_CHECKING:
    from mlx_chandra.store.status import Statistics, Work

Commands = argparse._SubParsersAction  # argparse has no public name for it

_SOME_FAILED = 10


def add_to(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Adds the command to the program's."""
    parser = commands.add_parser(
        "status",
        help="count the pages of a CSV by state, with speeds, slow pages and failures",
        description="Count the pages of a results file by state; say how fast they were read, which took "
        "longest, and which failed and why. It can be asked while a run is going on.",
    )
    parser.add_argument("results", metavar="CSV", help="a file that `mlx-chandra ocr` wrote")
    parser.add_argument(
        "--failed", action="store_true", help=f"name all failed pages, not {_SOME_FAILED} of them"
    )
    parser.add_argument(
        "--slowest",
        type=at_least(0),
        default=5,
        metavar="N",
        help="name the N slowest pages (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON, with all failed pages")


def run(arguments: argparse.Namespace) -> int:
    """Prints it; returns the exit status. Raises UsageError or OutputError."""
    from mlx_chandra.store.status import statistics

    found = statistics(arguments.results, arguments.slowest)
    if arguments.json:
        print(json.dumps(_record(found), ensure_ascii=True, indent=1))
    else:
        for line in _lines(found, arguments.failed):
            print(printable(line))
    sys.stdout.flush()
    return 0


def _record(found: "Statistics") -> dict[str, object]:
    """Everything in JSON's types, with the rates worked out."""
    runs = {
        name: None
        if work is None
        else asdict(work)
        | {"pages_per_second": work.pages_per_second, "tokens_per_second": work.tokens_per_second}
        for name, work in (("last", found.last), ("all", found.all))
    }
    return {"mlx_chandra_status": 1, "pages": found.pages, **asdict(found), **runs}


def _lines(found: "Statistics", all_failed: bool) -> list[str]:
    lines = [f"{found.path}: {counted(found.pages, 'page')}{_running(found.running)}"]
    widest = max(map(len, found.states), default=0)
    # the most first; those of one number by their names
    for state, count in sorted(found.states.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"  {state:{widest}}  {count:>9,}")
    if not found.has_journal:
        lines += ["", "There is no store beside it, so speeds and slow pages aren't known."]
    if found.last is not None:
        lines += ["", *_work(_last(found.last, found.running is not None), found.last)]
    if found.all is not None and found.all.runs > 1:
        lines += _work(f"{found.all.runs:,} runs in all", found.all)
    paths = [slow.path for slow in found.slowest] + [failed.path for failed in found.failed]
    names = _short(paths)
    if found.slowest:
        lines += ["", "Slowest pages:"]
        for slow in found.slowest:
            again = f" in {slow.attempts} attempts" if slow.attempts > 1 else ""
            tokens = f"{counted(slow.generated_tokens, 'token')}{again}"
            lines.append(f"  {slow.seconds:8,.1f} s  {names[slow.path]}  {slow.status}, {tokens}")
    return lines + _failed(found, names, all_failed)


def _running(process: int | None) -> str:
    if process is None:
        return ""
    return f"; a run{f' (process {process})' if process else ''} is going on"


def _last(work: "Work", running: bool) -> str:
    if work.ended is not None:
        return f"Last run, {work.began}"
    return f"This run, since {work.began}" if running else f"Last run, {work.began}, killed"


def _work(title: str, work: "Work") -> list[str]:
    copies = f", {work.copies:,} with another file's result" if work.copies else ""
    return [
        f"{title}: {counted(work.pages, 'page')} in {duration(work.seconds)}, {work.failed:,} failed{copies}",
        f"  {work.pages_per_second:.2f} pages/s, {work.tokens_per_second:,.0f} tokens/s; "
        f"{work.prompt_tokens:,} prompt and {work.generated_tokens:,} output tokens; "
        f"{', '.join(work.models)}",
    ]


def _failed(found: "Statistics", names: dict[str, str], all_of_them: bool) -> list[str]:
    if not found.failed:
        return []
    shown = found.failed if all_of_them else found.failed[:_SOME_FAILED]
    lines = ["", f"Failed pages ({len(found.failed):,}):"]
    lines += [f"  {names[page.path]}  {page.status}" for page in shown]
    if len(shown) < len(found.failed):
        lines.append(f"  ... and {len(found.failed) - len(shown):,} more: --failed names all")
    return lines


def _short(paths: Sequence[str]) -> dict[str, str]:
    """The paths without the folders that all of them are in."""
    folders = {os.path.dirname(path) for path in paths}
    common = os.path.commonpath(folders) if folders and all(map(os.path.isabs, folders)) else ""
    return {path: os.path.relpath(path, common) if common else path for path in paths}

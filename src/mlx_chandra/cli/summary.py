"""What `mlx-chandra ocr` prints at the end of a run."""

import shlex

from mlx_chandra.cli.texts import counted, duration, printable, rate
from mlx_chandra.reading.progress import Counts, Summary


def summary_lines(summary: Summary, results_path: str) -> list[str]:
    """How the run ended, what it took, how failed pages are listed, and where the results are."""
    counts = summary.counts
    lines = [" ".join([_pages(summary), *_further(summary)])]
    if counts.read:
        speed = counts.generated_tokens / summary.seconds if summary.seconds else 0
        lines.append(
            f"Tokens: {counts.prompt_tokens:,} of prompts, {counts.generated_tokens:,} of output "
            f"({speed:,.0f}/s), {counts.generated_tokens / counts.read:,.0f} a page."
        )
    if counts.failed:
        lines.append(f"Failed pages: mlx-chandra status {shlex.quote(printable(results_path))} --failed")
    return [*lines, f"Results: {printable(results_path)}"]


def failures(counts: Counts) -> str:
    """How many pages failed, and in which states."""
    states = {"empty": counts.empty, "truncated": counts.truncated, "repetition": counts.repetition}
    named = [f"{count:,} {state}" for state, count in states.items() if count]
    if named and counts.error:
        named.append(f"{counts.error:,} other")
    return f"{counts.failed:,} failed" + (f" ({', '.join(named)})" if named else "")


def _pages(summary: Summary) -> str:
    counts, skipped = summary.counts, summary.skipped
    if not counts.pages and not summary.stopped:
        which = "the one page is" if skipped == 1 else f"all {skipped:,} pages are"
        return f"Nothing to do: {which} in the results already."
    speed = f" ({rate(counts.pages / summary.seconds)} pages/s)" if summary.seconds and counts.pages else ""
    before = f"; {skipped:,} {'was' if skipped == 1 else 'were'} in the results before" if skipped else ""
    return (
        f"{counted(counts.ok, 'page')} ok, {failures(counts)} in {duration(summary.seconds)}{speed}{before}."
    )


def _further(summary: Summary) -> list[str]:
    counts, found = summary.counts, []
    if counts.retried:
        were = "page was" if counts.retried == 1 else "pages were"
        found.append(f"{counts.retried:,} {were} retried, {counts.recovered:,} of them ok in the end.")
    if counts.copied:
        have = "page has" if counts.copied == 1 else "pages have"
        found.append(f"{counts.copied:,} {have} the result of another file with the same content.")
    if summary.documents:
        found.append(f"The files of {counted(summary.documents, 'document')} were written.")
    if summary.unwritten_documents:
        found.append(f"Those of {counted(summary.unwritten_documents, 'document')} are missing.")
    if summary.unwritten_texts:
        found.append(f"{counted(summary.unwritten_texts, 'text file')} could not be written.")
    if summary.stopped:
        found.append("Stopped before the end: run again with --resume to go on.")
    return found

"""What a document's JSON file and its metadata say of its pages."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from mlx_chandra.documents.page import PageResult
from mlx_chandra.errors import PageState
from mlx_chandra.export.conversion import ConvertedPage
from mlx_chandra.files.paths import shown_path


@dataclass(frozen=True)
class PageRecord:
    """One page of a document: what came out for it, and what that was turned into."""

    result: PageResult
    converted: ConvertedPage


def digest_of(pages: Iterable[PageResult]) -> str:
    """Return the SHA-256, in hexadecimal, of all of a document's pages that changes its files."""
    digest = hashlib.sha256()
    for page in pages:
        digest.update(digest_row(page))
    return digest.hexdigest()


def digest_row(page: PageResult) -> bytes:
    """Return the part of a page in `digest_of`."""
    facts = [page.finish_reason, page.prompt_tokens, page.output_tokens, page.size, page.box_scale]
    row = [shown_path(page.page.path), page.status, page.text, *facts, *_made_with(page)]
    return json.dumps(row, sort_keys=True).encode() + b"\n"


def page_metadata(place: int, page: PageRecord) -> dict[str, object]:
    """Return the entry of a page, the document's `place`-th from 0 on, in `<name>_metadata.json`.

    Its first keys are those of the authors' client (`chandra.scripts.cli.save_merged_output`). What isn't
    known is None.
    """
    result, converted = page.result, page.converted
    return {
        "page_num": place,
        "page_box": [0, 0, *converted.size] if converted.size else None,
        "token_count": result.output_tokens if result.settings else None,
        "num_chunks": len(converted.blocks),
        "num_images": len(converted.pictures),
        "page": result.page.number,
        "status": result.status,
        "finish_reason": result.finish_reason,
        "problems": list(converted.problems),
    }


def document_metadata(
    source: str, pages: Sequence[dict[str, object]], files: Sequence[str]
) -> dict[str, object]:
    """Return the content of `<name>_metadata.json` of these entries; its first keys are the client's too."""
    return {
        "file_name": os.path.basename(source),
        "num_pages": len(pages),
        "total_token_count": _total(pages, "token_count"),
        "total_chunks": _total(pages, "num_chunks"),
        "total_images": _total(pages, "num_images"),
        "pages": pages,
        "source": source,
        "num_failed_pages": sum(page["status"] != PageState.OK.status for page in pages),
        "files": list(files),
    }


def _total(pages: Sequence[dict[str, object]], key: str) -> int:
    values = (page[key] for page in pages)
    return sum(value for value in values if isinstance(value, int))


def reading_record(page: PageRecord) -> dict[str, object]:
    """Return which page it is and how it was read; what isn't known is None."""
    result, size = page.result, page.converted.size
    is_read = result.settings is not None
    program, model, settings = _made_with(result)
    return {
        "page": result.page.number,
        "path": shown_path(result.page.path),
        "status": result.status,
        "finish_reason": result.finish_reason,
        "width": size[0] if size else None,
        "height": size[1] if size else None,
        "prompt_tokens": result.prompt_tokens if is_read else None,
        "generated_tokens": result.output_tokens if is_read else None,
        "model": model,
        "settings": settings,
        "program": program,
    }


def _made_with(page: PageResult) -> tuple[str | None, str | None, dict[str, object] | None]:
    """Return program, model and settings."""
    made = page.settings
    return (None, None, None) if made is None else (made.program, made.model, dict(made.settings))


def page_record(page: PageRecord) -> dict[str, object]:
    """Return the entry of a page in `<name>.json`, with every block."""
    return {
        **reading_record(page),
        "problems": list(page.converted.problems),
        "blocks": [asdict(block) for block in page.converted.blocks],
    }

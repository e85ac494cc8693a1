"""What a document's JSON file, its Parquet rows and its metadata say of its pages."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlx_chandra.documents.page import PageResult
from mlx_chandra.errors import PageState
from mlx_chandra.files.paths import shown_path

if TYPE_CHECKING:
    from mlx_chandra.export.conversion import ConvertedPage

Record = dict[str, Any]


def digest_of(pages: Iterable[PageResult]) -> str:
    """Return the SHA-256, in hexadecimal, of all of a document's pages that changes its files."""
    digest = hashlib.sha256()
    for page in pages:
        digest.update(digest_row(page))
    return digest.hexdigest()


def digest_row(page: PageResult) -> bytes:
    """Return the part of a page in `digest_of`."""
    made = page.settings
    facts = [page.finish_reason, page.prompt_tokens, page.output_tokens, page.size, page.box_scale]
    settings = (made.program, made.model, dict(made.settings)) if made else (None, None, None)
    row = [shown_path(page.page.path), page.status, page.text, *facts, *settings]
    return json.dumps(row, sort_keys=True).encode() + b"\n"


def page_record(result: PageResult, converted: "ConvertedPage") -> Record:
    """Return the entry of a page in `<name>.json`; what isn't known is None."""
    made, (width, height) = result.settings, converted.size or (None, None)
    return {
        "page": result.page.number,
        "path": shown_path(result.page.path),
        "status": result.status,
        "finish_reason": result.finish_reason,
        "width": width,
        "height": height,
        "prompt_tokens": result.prompt_tokens if made else None,
        "generated_tokens": result.output_tokens if made else None,
        "model": made.model if made else None,
        "settings": dict(made.settings) if made else None,
        "program": made.program if made else None,
        "problems": list(converted.problems),
        "blocks": [asdict(block) for block in converted.blocks],
    }


def page_metadata(place: int, page: Record) -> Record:
    """Return the entry of a page, the document's `place`-th from 0 on, in `<name>_metadata.json`.

    Its first keys are those of the authors' client (`chandra.scripts.cli.save_merged_output`).
    """
    return {
        "page_num": place,
        "page_box": [0, 0, page["width"], page["height"]] if page["width"] else None,
        "token_count": page["generated_tokens"],
        "num_chunks": len(page["blocks"]),
        "num_images": sum(block["image"] is not None for block in page["blocks"]),
        **{key: page[key] for key in ("page", "status", "finish_reason", "problems")},
    }


def document_metadata(source: str, pages: Sequence[Record], files: Sequence[str]) -> Record:
    """Return the content of `<name>_metadata.json` of these entries; its first keys are the client's too."""
    return {
        "file_name": os.path.basename(source),
        "num_pages": len(pages),
        "total_token_count": sum(page["token_count"] or 0 for page in pages),
        "total_chunks": sum(page["num_chunks"] for page in pages),
        "total_images": sum(page["num_images"] for page in pages),
        "pages": pages,
        "source": source,
        "num_failed_pages": sum(page["status"] != PageState.OK.status for page in pages),
        "files": list(files),
    }

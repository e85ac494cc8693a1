"""What a document's JSON file and its metadata say of its pages."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_chandra.errors import PageState, state_of
from mlx_chandra.outputs.conversion import ConvertedPage
from mlx_chandra.outputs.layout import Block, Box
from mlx_chandra.outputs.ledger import PageFacts


@dataclass(frozen=True)
class PageRecord:
    """One page of a document, with all that is known of it.

    Attributes:
        number: Which of the document's pages, counted from 1; None for a picture by itself, and for a
            document that can't be read.
        path: The page as the table names it.
        status: As the table says it.
        facts: How it was read; None where an earlier run, which didn't write documents, has read it.
        converted: What its answer was turned into.
    """

    number: int | None
    path: str
    status: str
    facts: PageFacts | None
    converted: ConvertedPage


def metadata_record(source: str, pages: Sequence[PageRecord], files: Sequence[str]) -> dict[str, object]:
    """The content of `<name>_metadata.json`.

    Its keys are those of the authors' client (`chandra.scripts.cli.save_merged_output`), and some more behind
    them. What isn't known is null; totals are of what is known.
    """
    return {
        "file_name": os.path.basename(source),
        "num_pages": len(pages),
        "total_token_count": sum(page.facts.generated_tokens for page in pages if page.facts),
        "total_chunks": sum(len(page.converted.blocks) for page in pages),
        "total_images": sum(len(page.converted.pictures) for page in pages),
        "pages": [_page_metadata(place, page) for place, page in enumerate(pages)],
        "source": source,
        "num_failed_pages": _failed(pages),
        "files": list(files),
    }


def document_record(source: str, pages: Sequence[PageRecord]) -> dict[str, object]:
    """The content of `<name>.json`: every block of every page."""
    return {
        "file_name": os.path.basename(source),
        "source": source,
        "num_pages": len(pages),
        "num_failed_pages": _failed(pages),
        "pages": [_page(page) for page in pages],
    }


def _failed(pages: Sequence[PageRecord]) -> int:
    return sum(state_of(page.status) is not PageState.OK for page in pages)


def _page_metadata(place: int, page: PageRecord) -> dict[str, object]:
    size, facts = page.converted.size, page.facts
    return {
        "page_num": place,
        "page_box": [0, 0, size.width, size.height] if size else None,
        "token_count": facts.generated_tokens if facts else None,
        "num_chunks": len(page.converted.blocks),
        "num_images": len(page.converted.pictures),
        "page": page.number,
        "status": page.status,
        "finish_reason": facts.finish_reason if facts else None,
        "problems": list(page.converted.problems),
    }


def reading_record(page: PageRecord) -> dict[str, object]:
    """Which page it is and how it was read; what isn't known is None."""
    size, facts = page.converted.size, page.facts
    making = facts.making if facts else None
    return {
        "page": page.number,
        "path": page.path,
        "status": page.status,
        "finish_reason": facts.finish_reason if facts else None,
        "width": size.width if size else None,
        "height": size.height if size else None,
        "prompt_tokens": facts.prompt_tokens if facts else None,
        "generated_tokens": facts.generated_tokens if facts else None,
        "model": making.model if making else None,
        "settings": dict(making.settings) if making else None,
        "program": making.program if making else None,
    }


def _page(page: PageRecord) -> dict[str, object]:
    return {
        **reading_record(page),
        "problems": list(page.converted.problems),
        "blocks": [_block(block) for block in page.converted.blocks],
    }


def _block(block: Block) -> dict[str, object]:
    return {
        "label": block.label,
        "bbox": _corners(block.box),
        "bbox_fractions": _corners(block.fractions),
        "content": block.content,
        "image": block.picture,
    }


def _corners(box: Box | None) -> list[float] | None:
    return None if box is None else list(box.corners())

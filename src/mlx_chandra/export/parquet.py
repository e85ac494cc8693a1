"""A document as a table for analysis: a row for each block, and one for each page that has none.

Files of many documents have the same columns, so they can be read together. pyarrow writes them; it comes
with the extra `parquet` and is imported when the first file is made.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from mlx_chandra.errors import MlxChandraError
from mlx_chandra.export.plain_text import plain_text
from mlx_chandra.export.records import Record

_ROW_GROUP = 2000  # rows that are kept until they are written together
_SIDES = ("left", "top", "right", "bottom")
_FRACTIONS = tuple(f"{side}_fraction" for side in _SIDES)
COLUMNS = {
    **dict.fromkeys(("file_name", "source"), "string"),
    "page": "int32",
    **dict.fromkeys(("path", "status", "finish_reason"), "string"),
    **dict.fromkeys(("width", "height", "prompt_tokens", "generated_tokens"), "int32"),
    "model": "string",
    "block": "int32",
    "label": "string",
    **dict.fromkeys(_SIDES, "int32"),
    **dict.fromkeys(_FRACTIONS, "float64"),
    **dict.fromkeys(("content", "text", "image"), "string"),
}
"""The columns and their types, in their order."""


def check_parquet() -> None:
    """Raises MlxChandraError where pyarrow isn't installed; imports nothing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MlxChandraError(
            "Parquet files are written by the package pyarrow, which isn't installed.",
            "It comes with the extra parquet: pip install 'mlx-chandra[parquet]'.",
        )


@contextmanager
def block_rows(file: IO[bytes], source: str) -> Iterator[Callable[[Record, object], None]]:
    """Write a Parquet file with a document's blocks, some thousand rows at a time; yield what adds a page."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    rows: list[Record] = []

    def flush() -> None:
        writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
        rows.clear()

    def add(page: Record, converted: object) -> None:
        rows.extend(_rows(source, page))
        if len(rows) >= _ROW_GROUP:
            flush()

    with parquet.ParquetWriter(file, schema) as writer:
        yield add
        flush()


def _rows(source: str, page: Record) -> Iterator[Record]:
    read = {name: value for name, value in page.items() if name in COLUMNS}
    about = {"file_name": os.path.basename(source), "source": source, **read}
    if not page["blocks"]:
        yield about
    for place, block in enumerate(page["blocks"]):
        yield {
            **about,
            "block": place,
            "label": block["label"],
            **dict(zip(_SIDES, block["bbox"] or (), strict=False)),
            **dict(zip(_FRACTIONS, block["bbox_fractions"] or (), strict=False)),
            "content": block["content"],
            "text": plain_text(block["content"]),
            "image": block["image"],
        }

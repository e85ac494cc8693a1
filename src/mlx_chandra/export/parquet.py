"""A document as a table for analysis: a row for each block, and one for each page that has none.

Files of many documents have the same columns, so they can be read together. pyarrow writes them; it comes
with the extra `parquet` and is imported when the first file is made.
"""

import importlib.util
import os
from collections.abc import Iterator
from typing import IO

from mlx_chandra.errors import MlxChandraError
from mlx_chandra.export.layout import Block
from mlx_chandra.export.plain_text import plain_text
from mlx_chandra.export.records import PageRecord, reading_record

_ROW_GROUP = 2000  # rows that are kept until they are written together
_SIDES = ("left", "top", "right", "bottom")
_FRACTIONS = tuple(f"{side}_fraction" for side in _SIDES)
_NO_BOX = (None,) * len(_SIDES)
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


class Blocks:
    """Writes a Parquet file with a document's blocks, some thousand rows at a time."""

    def __init__(self, file: IO[bytes], source: str) -> None:
        import pyarrow
        from pyarrow import parquet

        self._schema = pyarrow.schema(
            [(name, pyarrow.type_for_alias(kind)) for name, kind in COLUMNS.items()]
        )
        self._writer = parquet.ParquetWriter(file, self._schema)
        self._source = source
        self._rows: list[dict[str, object]] = []

    def add(self, page: PageRecord) -> None:
        self._rows.extend(_rows(self._source, page))
        if len(self._rows) >= _ROW_GROUP:
            self._write()

    def end(self) -> None:
        self._write()
        self.close()

    def close(self) -> None:
        """Let go of the file. What was not written is left out."""
        self._writer.close()

    def _write(self) -> None:
        import pyarrow

        self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def _rows(source: str, page: PageRecord) -> Iterator[dict[str, object]]:
    read = {name: value for name, value in reading_record(page).items() if name in COLUMNS}
    about: dict[str, object] = {"file_name": os.path.basename(source), "source": source, **read}
    if not page.converted.blocks:
        yield about
    for place, block in enumerate(page.converted.blocks):
        yield about | _block(place, block)


def _block(place: int, block: Block) -> dict[str, object]:
    return {
        "block": place,
        "label": block.label,
        **dict(zip(_SIDES, block.bbox or _NO_BOX, strict=True)),
        **dict(zip(_FRACTIONS, block.bbox_fractions or _NO_BOX, strict=True)),
        "content": block.content,
        "text": plain_text(block.content),
        "image": block.image,
    }

"""What documents are made into, as the user asked for it."""

from dataclasses import dataclass
from enum import StrEnum


class Format(StrEnum):
    """What a document can be written as."""

    HTML = "html"
    MARKDOWN = "markdown"
    JSON = "json"
    TEXT = "text"
    PARQUET = "parquet"


@dataclass(frozen=True)
class Choices:
    """What of a page goes into HTML, Markdown and text."""

    headers: bool = False  # and footers
    pictures: bool = True  # which are then also cut out of the page


@dataclass(frozen=True)
class ExportSettings:
    """What documents are made into."""

    folder: str  # where the documents' folders go
    formats: frozenset[Format]
    choices: Choices = Choices()
    paginate: bool = False  # mark in HTML and Markdown where a page begins

    @property
    def how(self) -> str:
        """All that changes the files of given pages, as a word to compare."""
        words = [*sorted(self.formats), "headers" * self.choices.headers]
        words += ["pictures" * self.choices.pictures, "paginated" * self.paginate]
        return ",".join(word for word in words if word)

    def check_packages(self) -> None:
        """Raise MlxChandraError where a package that makes the files is missing."""
        from mlx_chandra.export.layout import package
        from mlx_chandra.export.parquet import check_parquet

        if Format.PARQUET in self.formats:
            check_parquet()
        package()

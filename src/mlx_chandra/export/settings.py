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
    """What of a page goes into HTML, Markdown and text.

    Attributes:
        headers: Page headers and footers.
        pictures: Figures and images, which are then also cut out of the page.
    """

    headers: bool = False
    pictures: bool = True


@dataclass(frozen=True)
class ExportSettings:
    """What documents are made into.

    Attributes:
        folder: Where the documents' folders go.
        formats: Which files each of them gets.
        choices: What of a page is left in.
        paginate: Mark in HTML and Markdown where a page begins.
    """

    folder: str
    formats: frozenset[Format]
    choices: Choices = Choices()
    paginate: bool = False

    @property
    def how(self) -> str:
        """All that changes the files of given pages, as a word to compare."""
        words = [*sorted(self.formats), "headers" * self.choices.headers]
        words += ["pictures" * self.choices.pictures, "paginated" * self.paginate]
        return ",".join(word for word in words if word)

    def check_packages(self) -> None:
        """Raises MlxChandraError where a package that makes the files is missing."""
        from mlx_chandra.export.layout import package
        from mlx_chandra.export.parquet import check_parquet

        if Format.PARQUET in self.formats:
            check_parquet()
        package()

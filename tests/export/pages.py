"""Results of pages, as the store gives them, for the tests of the export."""

from mlx_chandra.documents.page import Document, Page, PageResult, ReadSettings

READ = ReadSettings("mlx-chandra 1", "demo", {"max_tokens": 9})


def document(path: str = "/in/a.pdf", stem: str = "a") -> Document:
    return Document(path, "", stem)


def result(
    text: str,
    number: int | None = 1,
    status: str = "ok",
    *,
    size: tuple[int, int] | None = (20, 40),
    scale: int | None = 1000,
    settings: ReadSettings | None = READ,
    path: str = "/in/a.pdf",
) -> PageResult:
    return PageResult(
        Page(document(path), number),
        status,
        text,
        finish_reason="stop",
        prompt_tokens=50,
        output_tokens=10 * (number or 1),
        size=size,
        box_scale=scale,
        settings=settings,
    )


def failed(number: int, status: str) -> PageResult:
    return PageResult(Page(document(), number), status)

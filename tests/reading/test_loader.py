"""Pages are found, opened and prepared ahead of whoever takes them, whatever single files do."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from PIL import Image

from mlx_chandra.documents.page import Document, Page
from mlx_chandra.errors import MlxChandraError, PageError
from mlx_chandra.reading.loader import Copied, Failed, Item, Loader, Prepared

PICTURE = Image.new("RGB", (30, 20))


def documents(*names: str) -> Iterator[Document]:
    return (Document(f"/in/{name}", "", name) for name in names)


def one_page(document: Document) -> Sequence[Page]:
    return [Page(document)]


def pages_of(count: int) -> Callable[[Document], Sequence[Page]]:
    return lambda document: [Page(document, number) for number in range(1, count + 1)]


def picture(page: Page) -> Image.Image:
    return PICTURE


def prepare(page: Page, image: Image.Image) -> str:
    return f"inputs of {page.path}"


def taken(loader: Loader, most: int | None = None, seconds: float = 10.0) -> list[Item]:
    """What the loader gives, until it is exhausted or has given `most`."""
    found: list[Item] = []
    end = time.monotonic() + seconds
    while not loader.exhausted and (most is None or len(found) < most):
        assert time.monotonic() < end, f"only {found} came"
        if (item := loader.get(wait=True)) is not None:
            found.append(item)
    return found


def paths(items: Sequence[Item]) -> list[str]:
    return sorted(item.page.path.removeprefix("/in/") for item in items)


@pytest.mark.parametrize("workers", [1, 4])
def test_every_page_is_prepared_once(workers: int) -> None:
    loader = Loader(documents(*map(str, range(50))), pages_of(3), picture, workers)
    loader.use(prepare)
    found = taken(loader)
    assert paths(found) == sorted(f"{n}#page={p}" for n in range(50) for p in (1, 2, 3))
    first = found[0]
    assert isinstance(first, Prepared)
    assert (first.size, first.inputs) == ((30, 20), f"inputs of {first.page.path}")
    assert loader.get(wait=False) is None


def test_pages_stand_for_themselves_and_may_come_from_one_document() -> None:
    document = Document("/in/a.pdf", "", "a")
    pages = iter([Page(document, 3), Page(document, 7)])
    loader = Loader(pages, lambda _: pytest.fail("planned"), picture, 2)
    loader.use(prepare)
    assert paths(taken(loader)) == ["a.pdf#page=3", "a.pdf#page=7"]


@pytest.mark.parametrize("where", ["plan", "open"])
def test_a_file_that_hangs_holds_up_one_worker_alone(where: str) -> None:
    let_go = threading.Event()

    def plan(document: Document) -> Sequence[Page]:
        if where == "plan" and document.path == "/in/slow":
            let_go.wait(20)
        return pages_of(8)(document)

    def open_page(page: Page) -> Image.Image:
        if where == "open" and page.document.path == "/in/slow":
            let_go.wait(20)
        return PICTURE

    names = ["slow", *map(str, range(20))]
    loader = Loader(documents(*names), plan, open_page, workers=2)
    loader.use(prepare)
    try:
        assert not any("slow" in item.page.path for item in taken(loader, 20 * 8))
    finally:
        let_go.set()
    assert len(taken(loader)) == 8


def test_one_document_is_opened_by_one_worker_at_a_time_and_prepared_by_all() -> None:
    opening = threading.Lock()
    together = threading.Barrier(3)

    def open_page(page: Page) -> Image.Image:
        assert opening.acquire(blocking=False), "two workers at once"
        time.sleep(0.001)
        opening.release()
        return PICTURE

    def preparing(page: Page, image: Image.Image) -> str:
        together.wait(5)
        return ""

    def plan(document: Document) -> Sequence[Page]:
        time.sleep(0.05)  # nobody goes home meanwhile
        return pages_of(9)(document)

    loader = Loader(documents("a.pdf"), plan, open_page, workers=3)
    loader.use(preparing)
    assert [type(item) for item in taken(loader)] == [Prepared] * 9


def test_pages_are_opened_a_few_ahead_and_no_more() -> None:
    opened: list[str] = []

    def open_page(page: Page) -> Image.Image:
        opened.append(page.path)
        return PICTURE

    loader = Loader(documents(*map(str, range(100))), one_page, open_page, workers=2)
    loader.use(prepare)
    time.sleep(0.3)
    assert 2 <= len(opened) <= (2 + 2) + 2  # queued, and in the workers' hands
    loader.stop()


def test_the_source_is_read_as_pages_are_needed() -> None:
    given: list[int] = []

    def many() -> Iterator[Document]:
        for number in range(1_000_000):
            given.append(number)
            yield Document(f"/in/{number}", "", "")

    loader = Loader(many(), one_page, picture, workers=2)
    loader.use(prepare)
    taken(loader, 5)
    loader.stop()
    assert len(given) < 20


def test_copies_and_pages_that_failed_come_without_a_model() -> None:
    def plan(document: Document) -> Sequence[Page | Copied]:
        if document.path == "/in/copy":
            return [Copied(Page(document), "/in/first")]
        return [Page(document, error=PageError("missing", "gone") if document.path == "/in/gone" else None)]

    def open_page(page: Page) -> Image.Image:
        raise PageError("unreadable", "torn")

    loader = Loader(documents("copy", "gone", "torn"), plan, open_page, workers=2)
    found = {item.page.path: item for item in taken(loader)}
    assert not loader.wants_reading.is_set()
    assert found["/in/copy"] == Copied(Page(Document("/in/copy", "", "copy")), "/in/first")
    kinds = [item.error.kind for item in found.values() if isinstance(item, Failed)]
    assert sorted(kinds) == ["missing", "unreadable"]


def test_a_page_to_be_read_waits_until_it_is_known_how() -> None:
    loader = Loader(documents("a", "b"), one_page, picture, workers=1)
    assert loader.wants_reading.wait(10)
    assert loader.get(wait=True) is None
    loader.use(prepare)
    assert paths(taken(loader)) == ["a", "b"]


def test_who_takes_pages_is_woken_for_each_of_them_and_at_the_end() -> None:
    woken = threading.Semaphore(0)
    loader = Loader(documents("a", "b"), one_page, picture, workers=1)
    loader.use(prepare, woken.release)
    for item in (Prepared, Prepared, type(None)):
        assert woken.acquire(timeout=10)
        assert type(loader.get(wait=False)) is item
    assert loader.exhausted


def test_what_fails_with_one_document_or_page_is_its_own_row() -> None:
    def plan(document: Document) -> Sequence[Page]:
        if document.path == "/in/locked":
            raise PageError("locked", "it has a password")
        if document.path == "/in/odd":
            raise OverflowError("2**63")
        return [Page(document)]

    def open_page(page: Page) -> Image.Image:
        if page.path == "/in/torn":
            raise OSError("torn")
        return PICTURE

    def preparing(page: Page, image: Image.Image) -> str:
        if page.path == "/in/long":
            raise PageError("shape", "too long")
        if page.path == "/in/zero":
            raise ZeroDivisionError("division by zero")
        return ""

    loader = Loader(documents("locked", "odd", "torn", "long", "zero", "good"), plan, open_page, workers=2)
    loader.use(preparing)
    found = taken(loader)
    assert len(found) == 6
    errors = {item.page.path: item.error for item in found if isinstance(item, Failed)}
    assert {path: (error.kind, error.message) for path, error in errors.items()} == {
        "/in/locked": ("locked", "it has a password"),
        "/in/odd": ("internal", "OverflowError: 2**63"),
        "/in/torn": ("internal", "OSError: torn"),
        "/in/long": ("shape", "too long"),
        "/in/zero": ("internal", "ZeroDivisionError: division by zero"),
    }


@pytest.mark.parametrize("where", ["plan", "open", "prepare"])
def test_what_concerns_every_page_is_raised(where: str) -> None:
    def trouble(*_: object) -> None:
        raise MlxChandraError("The prompt is wrong.")

    loader = Loader(
        documents("a"), trouble if where == "plan" else one_page, trouble if where == "open" else picture, 2
    )
    loader.use(trouble if where == "prepare" else prepare)
    with pytest.raises(MlxChandraError, match="The prompt is wrong"):
        taken(loader)


def test_a_source_that_breaks_is_raised_and_keeps_nobody_waiting() -> None:
    def broken() -> Iterator[Document]:
        yield Document("/in/a", "", "a")
        raise RuntimeError("the disk was pulled out")

    loader = Loader(broken(), one_page, picture, workers=3)
    loader.use(prepare)
    with pytest.raises(RuntimeError, match="pulled out"):
        taken(loader)


@pytest.mark.parametrize("knows_how", [True, False])
def test_workers_end_when_they_are_stopped(knows_how: bool) -> None:
    before = threading.active_count()
    loader = Loader(documents(*map(str, range(100))), one_page, picture, workers=3)
    if knows_how:
        loader.use(prepare)
    loader.stop()
    end = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.01)

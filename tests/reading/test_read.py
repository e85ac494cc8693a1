"""read_pages: pages in, results out, without a disk of its own."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents.page import Document, Page, PageResult
from mlx_chandra.engine.handles import Events, Finished, Handle, RequestOptions
from mlx_chandra.engine.retries import Answer as Kept
from mlx_chandra.engine.retries import Retries
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.engine.service import Service
from mlx_chandra.errors import EngineError, MlxChandraError, PageError
from mlx_chandra.reading.loader import Prepared
from mlx_chandra.reading.read import Pages, ReadOptions, read_pages
from tests.fakes import EVER, Answer, FakeGenerator, FakeProcessor, Inputs, Script

LOOP = "words of a page, and then " + "again " * 40


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Service, FakeGenerator]]]:
    """Starts a service on a fake engine; it is closed at the end."""
    services = []

    def go(
        script: Script | None = None, processor: FakeProcessor | None = None
    ) -> tuple[Service, FakeGenerator]:
        generator = FakeGenerator(script)
        services.append(Service(generator, processor or FakeProcessor()))
        return services[-1], generator

    yield go
    for service in services:
        service.close()


def pages(count: int, start: int = 1) -> list[Page]:
    return [Page(Document(f"/in/{number:06x}", "", f"{number}")) for number in range(start, start + count)]


def coloured(page: Page) -> Image.Image:
    """A picture whose colour is the page's name."""
    return Image.new("RGB", (8, 6), f"#{page.path.removeprefix('/in/')}")


def by_name(results: Iterator[PageResult] | Sequence[PageResult]) -> dict[str, PageResult]:
    found = list(results)
    named = {result.page.path.rpartition("/")[2]: result for result in found}
    assert len(named) == len(found), "a page has two results"
    return named


def test_each_page_gets_one_result_with_all_that_is_known(start: Callable) -> None:
    answers = {"000001": Answer("read"), "000002": Answer(LOOP)}
    service, _ = start(Script(answers=answers, again={"000002": [Answer("whole")]}))
    found = by_name(read_pages(pages(2), service, ReadOptions(open_page=coloured)))
    one, two = found["000001"], found["000002"]
    assert (one.status, one.text, one.finish_reason, one.attempts) == ("ok", "read", "stop", 1)
    assert (one.prompt_tokens, one.output_tokens, one.size, one.box_scale) == (100, 5, (8, 6), 1000)
    assert (two.status, two.text, two.attempts, two.output_tokens) == ("ok", "whole", 2, 6)
    assert two.generated_tokens == len(LOOP) + 1 + 6


@pytest.mark.parametrize("workers", [1, 7])
def test_every_one_of_many_pages_is_read_once_and_the_engine_is_kept_full(
    start: Callable, workers: int
) -> None:
    service, generator = start(Script(slots=8))
    options = ReadOptions(open_page=coloured, workers=workers)
    found = by_name(read_pages(iter(pages(300)), service, options))
    assert len(found) == 300
    assert {result.status for result in found.values()} == {"ok"}
    assert generator.most_in_hand <= 16


def test_pages_that_cannot_be_read_stand_between_those_that_can(start: Callable, tmp_path: Path) -> None:
    for number in range(1, 5):
        coloured(Page(Document(f"/in/{number:06x}", "", ""))).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"")
    Image.new("RGB", (1, 5000)).save(tmp_path / "5.png")
    service, _ = start()
    files = [Document(str(tmp_path / f"{number}.png"), "", "") for number in range(1, 7)]
    found = by_name(read_pages(files, service))
    assert [found[f"{number}.png"].status for number in range(1, 7)] == [
        "ok", "error:unreadable: the file is empty", "ok", "ok",
        "error:shape: the picture is too long and thin", "error:missing: there is no such file",
    ]  # fmt: skip
    assert (found["2.png"].finish_reason, found["2.png"].attempts, found["2.png"].size) == (None, 0, None)


def test_a_document_stands_for_all_its_pages(start: Callable, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (0, 0, number)) for number in (1, 2, 3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    service, _ = start()
    found = by_name(read_pages([Document(str(tmp_path / "a.tif"), "", "a")], service))
    assert sorted(found) == [f"a.tif#page={number}" for number in (1, 2, 3)]


def test_results_come_while_later_pages_are_not_even_asked_for(start: Callable) -> None:
    asked: list[Page] = []

    def endless() -> Iterator[Page]:
        for number in itertools.count(1):
            asked.extend(pages(1, number))
            yield asked[-1]

    service, generator = start(Script(slots=2))
    results = read_pages(endless(), service, ReadOptions(open_page=coloured, workers=2))
    for _ in range(5):
        next(results)
    assert len(asked) < 100
    results.close()
    generator_is_idle(generator)


def generator_is_idle(generator: FakeGenerator) -> None:
    end = time.monotonic() + 10
    while generator.has_work:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_closing_early_drops_what_is_in_work_and_leaves_the_service_to_others(start: Callable) -> None:
    service, generator = start(Script(answers={"000002": EVER}, step=0.001))
    results = read_pages(pages(3), service, ReadOptions(open_page=coloured))
    next(results)
    results.close()
    generator_is_idle(generator)
    assert "000002" in generator.removed
    assert len(by_name(read_pages(pages(9, 10), service, ReadOptions(open_page=coloured)))) == 9


def test_two_readers_share_a_service(start: Callable) -> None:
    service, generator = start(Script(slots=2))
    found: list[dict[str, PageResult]] = []

    def read() -> None:
        found.append(by_name(read_pages(pages(40), service, ReadOptions(open_page=coloured))))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert [len(results) for results in found] == [40] * 3
    assert generator.most_in_hand <= 4


def test_retries_are_seeded_by_the_files_name_wherever_its_folder_is(start: Callable) -> None:
    service, generator = start(Script(answers={"000001": Answer(LOOP)}))
    places = [Page(Document(f"/{folder}/000001", "", "")) for folder in ("here", "there")]
    for page in places:
        options = ReadOptions(open_page=lambda _: Image.new("RGB", (8, 8), "#000001"), retries=Retries(1))
        list(read_pages([page], service, options))
    first, second = (sampling for _, sampling in generator.retries)
    assert first == second


def test_options_come_to_the_processor_and_the_engine(start: Callable) -> None:
    asked: list[tuple[object, int | None]] = []

    class Asked(FakeProcessor):
        def prepare(self, image: Image.Image, prompt: object, max_size: int | None = None) -> Inputs:
            asked.append((prompt, max_size))
            return super().prepare(image, prompt, max_size)

    service, generator = start(processor=Asked())
    for max_size in (None, 0, 512):
        options = ReadOptions("Read it.", max_size, sampling=Sampling(0.5), open_page=coloured)
        list(read_pages(pages(1), service, options))
    assert asked == [("Read it.", None), ("Read it.", None), ("Read it.", 512)]
    assert [sampling for _, sampling in generator.retries] == [Sampling(0.5)] * 3
    for wrong in ({"max_size": -1}, {"workers": 0}):
        with pytest.raises(ValueError, match="at least"):
            ReadOptions(**wrong)


def test_an_error_that_concerns_every_page_is_raised(start: Callable) -> None:
    class Misled(FakeProcessor):
        def prepare(self, *_: object) -> Inputs:
            raise MlxChandraError("The prompt holds the token that stands for the picture.")

    service, _ = start(processor=Misled())
    with pytest.raises(MlxChandraError, match="The prompt holds"):
        list(read_pages(pages(5), service, ReadOptions(open_page=coloured)))


def test_an_engine_that_is_gone_loses_no_finished_page_and_then_says_so(start: Callable) -> None:
    service, _ = start(Script(fails_after=60))
    found: list[PageResult] = []
    submitted: list[Handle] = []
    submit = service.submit

    def counting(*arguments: object, **options: object) -> Handle:
        submitted.append(submit(*arguments, **options))
        return submitted[-1]

    service.submit = counting

    def read() -> None:
        found.extend(read_pages(pages(200), service, ReadOptions(open_page=coloured)))

    with pytest.raises(EngineError, match="device is gone"):
        read()
    assert len(found) == len(submitted)
    statuses = [result.status for result in found]
    assert statuses.count("ok") > 0
    assert 0 < sum(status.startswith("error:engine: ") for status in statuses) <= 3 * 8
    assert {status.partition(": ")[0] for status in statuses} == {"ok", "error:engine"}


def test_the_results_of_pages_in_work_come_before_the_error_of_a_service_that_broke() -> None:
    class Breaking:
        box_scale = 1000
        events: Events | None = None

        def submit(self, inputs: Inputs, options: object, events: Events, timeout: float) -> Handle:
            if self.events is not None:
                raise EngineError("The device is gone.")
            self.events, self.handle = events, Handle(lambda handle: None, events)
            return self.handle

    service = Breaking()
    reading = Pages(service, lambda page: RequestOptions())
    for page in pages(2):
        reading.admit(Prepared(page, (8, 6), Inputs("", "")))
    assert not reading.wants_more
    service.events.put(Finished(service.handle, Kept("error:engine: gone")))
    assert [result.status for result in reading.finished(wait=False)] == ["error:engine: gone"]
    with pytest.raises(EngineError, match="gone"):
        reading.finished(wait=False)


def test_a_service_that_is_closed_meanwhile_ends_the_reading(start: Callable) -> None:
    service, _ = start(Script(answers={"000001": EVER}))
    results = read_pages(pages(1), service, ReadOptions(open_page=coloured))
    threading.Timer(0.05, service.close).start()
    with pytest.raises(EngineError, match="closed"):
        list(results)


def test_a_page_that_an_opener_refuses_has_its_error(start: Callable) -> None:
    def refuse(page: Page) -> Image.Image:
        raise PageError("locked", "it has a password")

    service, _ = start()
    (result,) = read_pages(pages(1), service, ReadOptions(open_page=refuse))
    assert result.status == "error:locked: it has a password"

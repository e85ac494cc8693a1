"""One thread owns the engine: what clients get of it, also when pages, clients or the engine fail."""

import gc
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from mlx_chandra.engine.generator import BatchGenerator
from mlx_chandra.engine.handles import (
    Cancelled,
    Event,
    Events,
    Finished,
    Handle,
    Prefilled,
    RequestOptions,
    Retried,
    Tokens,
)
from mlx_chandra.engine.repetition import MINIMUM_SPAN
from mlx_chandra.engine.retries import Answer as Kept
from mlx_chandra.engine.retries import Retries, retry_sampling, seed_of
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.engine.service import Service, load_checkpoint, open_service
from mlx_chandra.errors import EngineError, PageState
from mlx_chandra.processing.processor import PageInputs
from tests.cli.program import environment
from tests.fakes import EVER, Answer, FakeGenerator, FakeProcessor, Inputs, Script

WORDS = " ".join(f"word{number * 7919 % 1000}" for number in range(60))
LOOP = WORDS + "again " * 40
SHORT = RequestOptions(retries=Retries(0))


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Service, FakeGenerator]]]:
    """Starts a service on a fake engine; it is closed at the end."""
    services = []

    def go(script: Script | None = None, **options: object) -> tuple[Service, FakeGenerator]:
        generator = FakeGenerator(script)
        processor = options.pop("processor", None) or FakeProcessor()
        services.append(Service(generator, processor, **options))
        return services[-1], generator

    yield go
    for service in services:
        service.close()


def page(colour: str, text: str = "read") -> Inputs:
    return Inputs(colour, text)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Tokens))


def test_each_page_gets_the_status_that_its_answer_deserves(start: Callable) -> None:
    answers = {
        "1": Answer("read"),
        "2": Answer(" \n"),
        "3": Answer("so far", "length"),
        "4": Answer("again again", "repetition"),
        "5": Answer("x", "error"),
    }
    service, _ = start(Script(answers=answers, refused=["6"]))
    handles = [service.submit(page(colour), SHORT) for colour in "123456"]
    found = [handle.result(10) for handle in handles]
    assert [(answer.status, answer.text) for answer in found] == [
        ("ok", "read"),
        ("error:empty", ""),
        ("error:truncated", "so far"),
        ("error:repetition", "again again"),
        ("error:overflow: the model's numbers overflowed.", ""),
        ("error:too-long: the prompt is longer than a slot", ""),
    ]
    assert [answer.finish_reason for answer in found] == [
        "stop", "stop", "length", "repetition", "error", None,
    ]  # fmt: skip
    assert [answer.attempts for answer in found] == [1] * 5 + [0]
    assert (found[0].prompt_tokens, found[0].output_tokens) == (100, 5)  # the stop token counts


def test_a_page_tells_when_it_is_prefilled_and_finished(start: Callable) -> None:
    service, _ = start()
    handle = service.submit(page("1"))
    first, last = handle.events
    assert first == Prefilled(handle, 100)
    assert last == Finished(handle, handle.result())


def test_only_the_services_thread_touches_the_engine(start: Callable) -> None:
    service, generator = start(Script(answers={"1": EVER}))
    service.submit(page("2")).result(10)
    service.submit(page("1")).cancel()
    service.close()
    assert generator.threads == {"engine"}
    assert generator.closed


class Bytes(FakeProcessor):
    """One byte a token."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token).decode(errors="replace")


@pytest.mark.parametrize(
    "text", ["plain", "größer 日本語 😀 end", "ends in 😀", "\ufffd broken \ufffd", WORDS, " " * 9 + "read"]
)
def test_streamed_text_has_whole_characters_and_is_the_final_text(start: Callable, text: str) -> None:
    service, _ = start(Script(answers={"1": Answer(text.encode().decode("latin-1"))}), processor=Bytes())
    handle = service.submit(page("1"), RequestOptions(stream=True))
    events = list(handle.events)
    assert text_of(events) == text == handle.result().text
    if "\ufffd" not in text:
        assert not any("\ufffd" in event.text for event in events if isinstance(event, Tokens))


@pytest.mark.parametrize(
    ("said", "reason", "text"),
    [("日本".encode()[:-1].decode("latin-1"), "length", "日\ufffd"), ("\n" * 10, "stop", "")],
    ids=["breaks off within a character", "white space alone"],
)
def test_what_is_streamed_is_what_is_kept(start: Callable, said: str, reason: str, text: str) -> None:
    service, _ = start(Script(answers={"1": Answer(said, reason)}), processor=Bytes())
    handle = service.submit(page("1"), RequestOptions(stream=True))
    assert text_of(list(handle.events)) == text == handle.result().text


def test_a_page_that_repeats_itself_is_read_again_with_the_models_sampling(start: Callable) -> None:
    script = Script(answers={"1": Answer(LOOP)}, again={"1": [Answer(LOOP), Answer("whole")]})
    service, generator = start(script)
    handle = service.submit(page("1"), RequestOptions(seed_name="a.png", stream=True))
    events = list(handle.events)
    retried = [event for event in events if isinstance(event, Retried)]
    assert retried == [Retried(handle, number, PageState.REPETITION) for number in (2, 3)]
    assert text_of(events[: events.index(retried[0])]) == LOOP
    assert text_of(events[events.index(retried[1]) :]) == "whole"
    answer = handle.result()
    assert (answer.status, answer.text, answer.attempts) == ("ok", "whole", 3)
    assert answer.output_tokens == 6
    assert answer.generated_tokens == 2 * (len(LOOP) + 1) + 6
    family = FakeProcessor.family
    assert generator.retries == [("1", retry_sampling(family, n, seed_of("a.png", n))) for n in (1, 2)]


def test_the_attempt_that_says_most_is_kept_where_none_is_whole(start: Callable) -> None:
    script = Script(answers={"1": Answer(LOOP)}, again={"1": [Answer("x" * 80)]})
    service, _ = start(script)
    answer = service.submit(page("1"), RequestOptions(retries=Retries(2))).result(10)
    assert (answer.status, answer.text, answer.attempts) == ("error:repetition", LOOP, 3)


def test_other_pages_go_on_in_the_slot_of_one_that_is_read_again(start: Callable) -> None:
    script = Script(answers={"1": Answer(LOOP)}, again={"1": [Answer("whole")]}, slots=1)
    service, _ = start(script)
    handles = [service.submit(page(colour)) for colour in "12"]
    assert [handle.result(10).status for handle in handles] == ["ok"] * 2


@pytest.mark.parametrize("unit", ["..", "日本", "ab<td></td>"])
def test_an_attempt_that_repeats_itself_without_end_is_stopped(start: Callable, unit: str) -> None:
    service, generator = start(Script(answers={"1": Answer(unit * 100_000)}))
    answer = service.submit(page("1"), SHORT).result(60)
    assert answer.status == "error:repetition"
    assert answer.finish_reason == "repetition"
    assert answer.output_tokens < 2 * MINIMUM_SPAN
    assert generator.removed == ["1"]


def test_repetition_is_seen_in_the_text_where_its_tokens_differ_each_time(start: Callable) -> None:
    class Synonyms(FakeProcessor):
        def decode(self, ids: Sequence[int]) -> str:
            return "".join("." for token in ids if token)

    no_repetition = "".join(chr(33 + number * number % 7919) for number in range(20_000))
    service, _ = start(Script(answers={"1": Answer(no_repetition)}), processor=Synonyms())
    assert service.submit(page("1"), SHORT).result(60).output_tokens < 2 * MINIMUM_SPAN


def test_repetition_goes_on_where_the_page_wants_it_so(start: Callable) -> None:
    service, _ = start(Script(answers={"1": Answer("." * 4000)}))
    options = RequestOptions(retries=Retries(0), stop_on_repetition=False)
    assert service.submit(page("1"), options).result(10).output_tokens == 4001


def test_a_cancelled_page_frees_its_slot(start: Callable) -> None:
    service, generator = start(Script(answers={"1": EVER}, slots=1))
    stuck = service.submit(page("1"))
    assert next(stuck.events) == Prefilled(stuck, 100)
    waits, behind = service.submit(page("1")), service.submit(page("2"))
    for handle in (stuck, waits):
        handle.cancel()
    assert behind.result(10).status == "ok"
    assert list(stuck.events) == [Cancelled(stuck)]
    with pytest.raises(CancelledError):
        stuck.result(10)
    behind.cancel()  # has ended, and stays as it is
    assert behind.result(10).status == "ok"
    assert generator.removed[0] == "1"


def test_events_of_several_pages_can_share_a_queue(start: Callable) -> None:
    service, _ = start()
    events: Events = queue.SimpleQueue()
    handles = {service.submit(page(str(number)), events=events) for number in range(5)}
    finished = set()
    while len(finished) < 5:
        event = events.get(timeout=10)
        finished |= {event.handle} if isinstance(event, Finished) else set()
    assert finished == handles
    with pytest.raises(ValueError, match="queue"):
        next(handles.pop().events)


def test_a_full_queue_makes_clients_wait(start: Callable) -> None:
    service, generator = start(Script(answers={"1": EVER}, slots=2), queue_size=3)
    handles = [service.submit(page("1")) for _ in range(3)]
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            service.submit(page("2"), timeout=timeout)
    later: list[Kept] = []
    client = threading.Thread(target=lambda: later.append(service.submit(page("2")).result(10)))
    client.start()
    for handle in handles[:2]:
        handle.cancel()
    client.join(10)
    assert later[0].status == "ok"
    assert generator.most_in_hand <= 3


def test_the_queue_holds_the_slots_and_a_few_pages_more(start: Callable) -> None:
    service, _ = start(Script(answers={"1": EVER}, slots=8))
    for _ in range(16):
        service.submit(page("1"), timeout=0)
    with pytest.raises(TimeoutError):
        service.submit(page("1"), timeout=0)
    until(lambda: service.stats().active_slots == 8)
    assert service.stats().waiting == 8
    assert service.slots == 8


def test_an_engine_that_fails_loses_the_pages_in_it_and_goes_on_with_the_others(start: Callable) -> None:
    service, generator = start(Script(slots=2, step=0.002, fails_at=[3], answers={"1": Answer("x" * 60)}))
    handles = [service.submit(page(colour)) for colour in "1123"]
    statuses = [handle.result(10).status for handle in handles]
    assert statuses[:2] == ["error:engine: RuntimeError: the device is gone"] * 2
    assert statuses[-1] == "ok"
    assert handles[0].result().text == "x" * 16  # what was read so far
    assert generator.resets == 1
    assert service.broken is None
    assert service.submit(page("4")).result(10).status == "ok"


@pytest.mark.parametrize(
    ("script", "resets"), [(Script(fails_after=3), 3), (Script(fails_after=3, resets=False), 1)]
)
def test_an_engine_that_is_gone_ends_all_pages_with_its_error(
    start: Callable, script: Script, resets: int
) -> None:
    service, generator = start(script)
    events: Events = queue.SimpleQueue()
    handles: list[Handle] = []

    def submit_many() -> None:
        while len(handles) < 200:
            handles.append(service.submit(page("1", "x" * 200), events=events, timeout=10))

    with pytest.raises(EngineError, match="the device is gone"):
        submit_many()
    assert all(handle.result(10).status.startswith("error:engine: ") for handle in handles)
    assert generator.resets == resets
    assert service.broken is not None
    until(lambda: generator.closed)


def test_failures_with_finished_pages_in_between_do_not_break_the_service(start: Callable) -> None:
    service, generator = start(Script(fails_at=[2, 5, 8, 11, 14, 17], slots=1))
    for _ in range(30):
        service.submit(page("1", "x" * 10)).result(10)
    assert generator.resets == 6
    assert service.broken is None


def test_an_earlier_attempt_is_kept_where_the_engine_fails_in_a_retry(start: Callable) -> None:
    steps = -(-(len(LOOP) + 1) // 8)
    service, _ = start(Script(answers={"1": Answer(LOOP)}, fails_at=[steps + 1]))
    answer = service.submit(page("1")).result(10)
    assert (answer.status, answer.text, answer.attempts) == ("error:repetition", LOOP, 2)
    assert answer.seconds < 10


def test_neither_decoding_nor_a_clients_queue_can_stop_the_thread(start: Callable) -> None:
    class Poisoned(FakeProcessor):
        def decode(self, ids: Sequence[int]) -> str:
            text = super().decode(ids)
            if "poison" in text:
                raise KeyError("poison")
            return text

    class Broken(queue.SimpleQueue):
        def put(self, *_: object) -> None:
            raise RuntimeError("full")

    service, _ = start(Script(answers={"1": Answer("poison" * 400)}), processor=Poisoned())
    poisoned = service.submit(page("1"), RequestOptions(stream=True))
    deaf = service.submit(page("2"), events=Broken())
    assert poisoned.result(10).status == "error:internal: KeyError: 'poison'"
    assert deaf.result(10).status == "ok"
    assert service.submit(page("3")).result(10).status == "ok"


def test_a_closed_service_has_dropped_its_pages_and_takes_no_more(start: Callable) -> None:
    service, generator = start(Script(answers={"1": EVER}))
    handle = service.submit(page("1"))
    service.close()
    service.close()
    assert list(handle.events)[-1] == Cancelled(handle)
    assert generator.closed
    with pytest.raises(EngineError, match="closed"):
        service.submit(page("1"))


def test_clients_that_wait_for_room_learn_that_the_service_is_closed(start: Callable) -> None:
    service, _ = start(Script(answers={"1": EVER}), queue_size=1)
    service.submit(page("1"))
    waiting = threading.Barrier(3)
    said: list[EngineError] = []

    def client() -> None:
        waiting.wait(10)
        try:
            service.submit(page("1"))
        except EngineError as error:
            said.append(error)

    clients = [threading.Thread(target=client) for _ in range(2)]
    for thread in clients:
        thread.start()
    waiting.wait(10)
    time.sleep(0.02)
    service.close()
    for thread in clients:
        thread.join(10)
    assert len(said) == 2


def test_a_service_that_nobody_has_any_more_ends_but_not_while_a_page_is_waited_for() -> None:
    generator = FakeGenerator(Script(step=0.002))
    service = Service(generator, FakeProcessor())
    gone = weakref.ref(service)
    handle = service.submit(page("1", WORDS))
    del service
    assert handle.result(10).status == "ok"
    del handle
    gc.collect()
    until(lambda: generator.closed)
    assert gone() is None


def test_a_program_ends_although_its_service_is_open_and_busy() -> None:
    program = """
from tests.fakes import EVER, Answer, Inputs, Script, fake_service
service = fake_service(Script(answers={"1": Answer("." * 10**8)}, step=0.01))
handle = service.submit(Inputs("1", ""))
next(handle.events)
print("end")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")


@pytest.fixture(scope="module")
def demo_pages() -> tuple[object, object, list[PageInputs]]:
    from mlx_chandra.documents.image_files import open_page
    from mlx_chandra.processing.prompt import PromptType

    model, processor = load_checkpoint("demo")
    names = ("label.png", "sign.bmp", "diary.PNG", "menu.jpg")
    pages = [open_page(f"examples/pages/{name}") for name in names]
    return model, processor, [processor.prepare(image, PromptType.OCR_LAYOUT, 256) for image in pages]


def test_the_texts_are_those_of_the_engine_by_itself_from_whatever_threads_pages_come(demo_pages) -> None:
    model, processor, pages = demo_pages
    texts = {}
    with Service(
        BatchGenerator(model, processor, max_tokens=30, completion_batch_size=3), processor
    ) as service:

        def client(number: int) -> None:
            sampling = Sampling(0.5, 0.9, number) if number % 2 else Sampling()
            options = RequestOptions(sampling=sampling, retries=Retries(0))
            handles = [service.submit(pages[(number + i) % 4], options) for i in range(2)]
            for i, handle in enumerate(handles):
                texts[(number + i) % 4, sampling] = handle.result(300).text

        clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
    generator = BatchGenerator(model, processor, max_tokens=30, completion_batch_size=1)
    for (number, sampling), text in texts.items():
        (uid,) = generator.insert([pages[number]], sampling=sampling)
        tokens = []
        while generator.has_work:
            tokens += [response.token for response in generator.next()[1] if response.uid == uid]
        assert processor.decode(tokens) == text
    assert len(texts) == 8


def test_a_service_is_opened_by_a_checkpoints_name() -> None:
    with open_service("demo", batch_size=2, max_tokens=5) as service:
        assert (service.slots, service.box_scale) == (2, 1000)
        from PIL import Image

        handle = service.submit(service.prepare(Image.new("RGB", (64, 64), "white")), SHORT)
        assert handle.result(300).output_tokens <= 5


def test_a_program_that_has_used_a_service_ends_in_good_order() -> None:
    program = """
from PIL import Image
from mlx_chandra.engine.service import open_service
with open_service("demo", batch_size=1, max_tokens=2) as service:
    print(service.submit(service.prepare(Image.new("RGB", (64, 64)), "Read.")).result(100).output_tokens)
"""
    for _ in range(3):  # MLX aborted most such programs as they ended
        ended = subprocess.run(
            [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=100
        )
        assert (ended.returncode, ended.stdout) == (0, "2\n"), ended.stderr

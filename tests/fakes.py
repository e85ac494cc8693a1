"""Engines without a model: they answer by script and take as long as it says. Beside them processors
that need no checkpoint.

`python -m tests.fakes SCRIPT.json ocr ...` is the real program with it in the engine's place; the tests kill
that one. The script is a `Script` as JSON.
"""

import hashlib
import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from PIL import Image

from mlx_chandra.engine.responses import (
    OVERFLOW,
    FinishReason,
    GenerationResponse,
    GeneratorStats,
    PromptResponse,
)
from mlx_chandra.engine.sampler import GREEDY, Sampling
from mlx_chandra.errors import PageError
from mlx_chandra.processing.prompt import BOX_SCALES, ModelFamily

if TYPE_CHECKING:
    from mlx_chandra.engine.service import Service


@dataclass(frozen=True)
class StopsAt:
    """Stands for a processor whose answers end at the given tokens only; without any, at none."""

    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Answer:
    """What a page is answered with."""

    text: str
    reason: str = "stop"


EVER = Answer("".join(chr(33 + number * number % 7919) for number in range(7919)) * 100)
"""Outlasts every test, and doesn't count as repetition."""


@dataclass(frozen=True)
class Script:
    """How the fake behaves.

    Attributes:
        answers: By the colour of the page's top left pixel, as `rrggbb`; another page gets `text_for`.
        again: What the retries of a page are answered with, by its colour; one more gets the last of these.
        refused: Colours of pages that the engine refuses.
        slots: Pages at once.
        step: Seconds that a step takes.
        fails_after: After so many steps the engine gives up for good.
        fails_at: Steps, counted from 1, at which the engine fails once.
        resets: Whether it can be reset after it failed.
        loading: Seconds that it takes to be there.
        box_scale: What the boxes in its answers are normalised to.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    again: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    refused: Sequence[str] = ()
    slots: int = 4
    step: float = 0.0
    fails_after: int | None = None
    fails_at: Sequence[int] = ()
    resets: bool = True
    loading: float = 0.0
    box_scale: int = 1000


@dataclass(frozen=True)
class Inputs:
    """A page as the fake engine takes it."""

    colour: str
    text: str


def colour_of(image: Image.Image) -> str:
    return "{:02x}{:02x}{:02x}".format(*image.convert("RGB").getpixel((0, 0)))


def text_for(image: Image.Image) -> str:
    """What the fake reads from a page: a few lines that depend on every pixel."""
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return f'<p>page {digest[:12]}, "quoted"</p>\n<p>{image.width} x {image.height}</p>'


class FakeProcessor:
    """Prepares pages for a FakeGenerator. A token is a character, 0 ends an answer."""

    family = ModelFamily.CHANDRA_2

    def __init__(self, box_scale: int = 1000) -> None:
        self.family = next(family for family, scale in BOX_SCALES.items() if scale == box_scale)

    def prepare(self, image: Image.Image, prompt: object, max_size: int | None = None) -> Inputs:
        assert image.mode == "RGB"
        if max(image.size) > 200 * min(image.size):
            raise PageError("shape", "the picture is too long and thin")
        return Inputs(colour_of(image), text_for(image))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in ids if token)


@dataclass
class _Answering:
    """A page in a FakeGenerator, and how many characters of its answer it has given."""

    inputs: Inputs
    answer: Answer
    given: int = 0


class FakeGenerator:
    """BatchGenerator by script: eight tokens of each page a step.

    Attributes:
        retries: Colour and sampling of each retry.
        removed: Colours of pages that were removed.
        threads: Names of the threads that touched it.
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        time.sleep(self.script.loading)
        self.slots = self.script.slots
        self.closed = False
        self.most_at_once = self.most_in_hand = self.resets = 0
        self.retries: list[tuple[str, Sampling]] = []
        self.removed: list[str] = []
        self.threads: set[str] = set()
        self._pages: dict[int, _Answering] = {}
        self._refused: list[PromptResponse] = []
        self._begun: set[int] = set()
        self._uids = self._steps = self._tokens = self._prompt_tokens = 0

    @property
    def has_work(self) -> bool:
        return bool(self._pages or self._refused)

    def insert(
        self, prompts: Sequence[Inputs], max_tokens: object = None, sampling: Sampling = GREEDY
    ) -> list[int]:
        self.threads.add(threading.current_thread().name)
        return [self._insert(inputs, sampling) for inputs in prompts]

    def _insert(self, inputs: Inputs, sampling: Sampling) -> int:
        self._uids += 1
        if inputs.colour in self.script.refused:
            error = PageError("too-long", "the prompt is longer than a slot")
            self._refused.append(PromptResponse(self._uids, 9999, error))
            return self._uids
        answer = self.script.answers.get(inputs.colour, Answer(inputs.text))
        if not sampling.greedy:
            self.retries.append((inputs.colour, sampling))
            number = sum(colour == inputs.colour for colour, _ in self.retries)
            answers = self.script.again.get(inputs.colour, [answer])
            answer = answers[min(number, len(answers)) - 1]
        self._pages[self._uids] = _Answering(inputs, answer)
        self.most_in_hand = max(self.most_in_hand, len(self._pages))
        return self._uids

    def remove(self, uid: int) -> bool:
        self.threads.add(threading.current_thread().name)
        page = self._pages.pop(uid, None)
        if page is not None:
            self.removed.append(page.inputs.colour)
        return page is not None

    def next(self) -> tuple[list[PromptResponse], list[GenerationResponse]]:
        self.threads.add(threading.current_thread().name)
        self._steps += 1
        gone = self.script.fails_after is not None and self._steps > self.script.fails_after
        if gone or self._steps in self.script.fails_at:
            raise RuntimeError("the device is gone.")
        time.sleep(self.script.step)
        prompts, self._refused = self._refused, []
        active = list(self._pages)[: self.slots]
        self.most_at_once = max(self.most_at_once, len(active))
        new = [uid for uid in active if uid not in self._begun]
        self._begun.update(new)
        self._prompt_tokens += 100 * len(new)
        tokens = [response for uid in active for response in self._go_on(uid)]
        self._tokens += len(tokens)
        return [*prompts, *(PromptResponse(uid, 100) for uid in new)], tokens

    def _go_on(self, uid: int) -> list[GenerationResponse]:
        page = self._pages[uid]
        whole = page.answer.text + ("\0" if page.answer.reason == "stop" else "")
        chunk = whole[page.given : page.given + 8]
        responses = [
            GenerationResponse(uid, ord(c), None, number)
            for number, c in enumerate(chunk, start=page.given + 1)
        ]
        page.given += len(chunk)
        if page.given == len(whole):
            del self._pages[uid]
            error = OVERFLOW if page.answer.reason == "error" else None
            responses[-1] = replace(
                responses[-1], finish_reason=FinishReason(page.answer.reason), error=error
            )
        return responses

    def stats(self) -> GeneratorStats:
        return GeneratorStats(
            prompt_tokens=self._prompt_tokens,
            prompt_time=0.0,
            generation_time=0.0,
            generation_tokens=self._tokens,
            steps=self._steps,
            slots=self.slots,
            active_slots=min(self.slots, len(self._pages)),
            waiting=max(0, len(self._pages) - self.slots),
            peak_memory=1_000_000_000,
        )

    def reset(self) -> None:
        self.resets += 1
        if not self.script.resets:
            raise RuntimeError("no device")
        self._pages.clear()
        self._refused.clear()

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed = True


def fake_service(script: Script | None = None, **options: object) -> "Service":
    """A service on a FakeGenerator."""
    from mlx_chandra.engine.service import Service

    script = script or Script()
    return Service(FakeGenerator(script), FakeProcessor(script.box_scale), **options)


def read_script(path: str) -> Script:
    with open(path, encoding="utf-8") as file:
        given = json.load(file)
    answers = {colour: Answer(**answer) for colour, answer in given.pop("answers", {}).items()}
    again = {colour: [Answer(**one) for one in all_] for colour, all_ in given.pop("again", {}).items()}
    return Script(answers=answers, again=again, **given)


if __name__ == "__main__":
    from mlx_chandra.cli.main import main

    chosen = read_script(sys.argv[1])
    sys.exit(main(sys.argv[2:], service_factory=lambda options: fake_service(chosen)))

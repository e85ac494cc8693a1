"""Worker processes that draw pages and pack them into batches of one page size, ahead of the training loop.

    source = BatchSource(data_folder, tokenizer_folder, weights=(1, 0, 0, 0, 0))
    batch = source.get()
    source.set_weights((0, 1, 0, 0, 0))
    source.close()

Plain numpy; what becomes of a batch is the training's business. Run as a program it measures how fast one
process draws pages:

    python -m tools.demo_model.batches
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import queue
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tools.demo_model.glyphs import draw_all
from tools.demo_model.pages import LEVELS, Level, RenderedPage, Studio, TextMix, draw_page
from tools.demo_model.prompts import PromptKind
from tools.demo_model.typesetting import Points

PATCH = 16
MERGE = 2
SLOTS = 5
LINE_APART = 4.0  # pixels between the centres of two lines, at the least
OCR_SHARE = 0.24
STOP_TOKEN, PADDING_TOKEN = "<|im_end|>", "<|endoftext|>"


@dataclass(frozen=True)
class Batch:
    """Pages of one size with their answers to one prompt.

    Attributes:
        level: Number of the level in LEVELS.
        ink: uint8 [B, h, w]; 255 = full ink.
        tokens: int32 [B, T]; the answer, the stop token, then padding; T is the level's max_answer_tokens.
        answer_len: int32 [B]; tokens of the answer with the stop token.
        prompt_kind: int32 [B]; a PromptKind, the same in all rows.
        token_xy: float16 [B, T, 2]; where each token stands on the page, pixels; nan if nowhere.
        patch_chars: uint8 [B, P, SLOTS]; for each 16 x 16 patch, in the vision tower's order (merge blocks
            of 2 x 2, row by row), the characters whose centre lies in it, line by line from left to right:
            0 for none, else the place in ALPHABET plus 1.
    """

    level: int
    ink: NDArray[np.uint8]
    tokens: NDArray[np.int32]
    answer_len: NDArray[np.int32]
    prompt_kind: NDArray[np.int32]
    token_xy: NDArray[np.float16]
    patch_chars: NDArray[np.uint8]


@dataclass(frozen=True)
class PageMix:
    """What training reads more of than the exam, whose pages come as they come.

    Attributes:
        echo: Share of the passages of prose that say some of their words again.
        marks: Share of the passages full of quote marks of any kind.
        alike: Share of the passages in which many characters gave way to others that look like them.
        crowded: Share of the larger pages whose lines are small and close together.
        short: Share of the short prompt on pages of blocks; nothing leaves it as the levels have it.
    """

    echo: float = 0.1
    marks: float = 0.15
    alike: float = 0.2
    crowded: float = 0.2
    short: float | None = None

    def draw_prompt(self, rng: np.random.Generator, level: Level) -> PromptKind:
        """A prompt for the pages of a batch."""
        layout, ocr = level.layout_share, OCR_SHARE if level.blocks else OCR_SHARE / 3
        if self.short is not None and level.blocks:
            rest = (1 - self.short) / (layout + ocr)
            layout, ocr = layout * rest, ocr * rest
        draw = rng.random()
        if draw < layout:
            return PromptKind.OCR_LAYOUT
        return PromptKind.OCR if draw < layout + ocr else PromptKind.SHORT


@dataclass(frozen=True)
class BatchShape:
    """How many pages go into a batch: about `pixels` pixels of them, `most` at most, an even number."""

    pixels: int = 9_400_000
    most: int = 320

    def rows(self, size: tuple[int, int]) -> int:
        return max(2, min(self.most, self.pixels // (size[0] * size[1]) // 2 * 2))

    @property
    def largest(self) -> int:
        """Pixels of the largest batch of any level."""
        sizes = [size for level in LEVELS for size in level.sizes]
        return max(self.rows(size) * size[0] * size[1] for size in sizes)


class Packer:
    """Draws and packs batches in this process."""

    def __init__(self, studio: Studio, tokenizer: Tokenizer, shape: BatchShape, mix: PageMix) -> None:
        self.studio = studio
        self.mix = mix
        self.tokenizer = tokenizer
        self.shape = shape
        vocabulary = tokenizer.get_vocab()
        self.stop = vocabulary[STOP_TOKEN]
        self.padding = vocabulary[PADDING_TOKEN]

    def draw(self, rng: np.random.Generator, weights: Sequence[float]) -> Batch:
        """Draws a level by weight, one of its sizes and a prompt, then the pages."""
        shares = np.asarray(weights, np.float64)
        number = int(rng.choice(len(LEVELS), p=shares / shares.sum()))
        level = LEVELS[number]
        size = level.sizes[int(rng.integers(len(level.sizes)))]
        return self.pack(rng, number, size, self.mix.draw_prompt(rng, level))

    def pack(self, rng: np.random.Generator, number: int, size: tuple[int, int], kind: PromptKind) -> Batch:
        """Draws the pages of one batch of level `number`, size (height, width) and prompt kind."""
        level, rows = LEVELS[number], self.shape.rows(size)
        longest = level.max_answer_tokens
        batch = Batch(
            number,
            np.empty((rows, *size), np.uint8),
            np.full((rows, longest), self.padding, np.int32),
            np.empty(rows, np.int32),
            np.full(rows, kind, np.int32),
            np.full((rows, longest, 2), np.nan, np.float16),
            np.empty((rows, size[0] * size[1] // PATCH**2, SLOTS), np.uint8),
        )
        for row in range(rows):
            page, ids, points = self.fitting_page(rng, level, size, kind)
            batch.ink[row] = page.ink
            batch.tokens[row, : len(ids)] = ids
            batch.answer_len[row] = len(ids)
            batch.token_xy[row, : len(points)] = points
            batch.patch_chars[row] = characters_by_patch(page.centres, page.chars, size)
        return batch

    def fitting_page(
        self, rng: np.random.Generator, level: Level, size: tuple[int, int], kind: int
    ) -> tuple[RenderedPage, list[int], Points]:
        """Draws pages until one's answer fits the level; returns it, its tokens and where they stand."""
        while True:
            page = draw_page(rng, level, size, self.studio)
            html, points = page.html, page.html_xy
            if kind is PromptKind.OCR_LAYOUT:
                html, points = page.layout_html, page.layout_xy
            encoding = self.tokenizer.encode(html, add_special_tokens=False)
            if len(encoding.ids) < level.max_answer_tokens:
                return page, [*encoding.ids, self.stop], token_points(html, encoding.offsets, points)


def token_points(html: str, offsets: Sequence[tuple[int, int]], points: Points) -> Points:
    """Where each token of html stands: at its first character that is no space. float32 [tokens, 2]."""
    spans = np.array(offsets, np.int64).reshape(-1, 2)
    text = np.frombuffer(html.encode("utf-32-le"), np.uint32)
    starts = spans[:, 0] + ((text[spans[:, 0]] == 32) & (spans[:, 1] - spans[:, 0] > 1))
    return points[starts]


def characters_by_patch(
    centres: Points, chars: NDArray[np.uint8], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Sorts characters into patches: uint8 [P, SLOTS], patches in merge-block order, 0 for none."""
    rows, columns = size[0] // PATCH, size[1] // PATCH
    x, y = centres[:, 0], centres[:, 1]
    column, row = (x // PATCH).astype(np.int64), (y // PATCH).astype(np.int64)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    row, column, x, y, chars = row[inside], column[inside], x[inside], y[inside], chars[inside]
    block = (row // MERGE) * (columns // MERGE) + column // MERGE
    patch = (block * MERGE + row % MERGE) * MERGE + column % MERGE
    order = np.lexsort((y, patch))
    patch, x, y, chars = patch[order], x[order], y[order], chars[order]
    below = np.diff(y, prepend=y[:1]) > LINE_APART
    line = np.cumsum(below | (np.diff(patch, prepend=patch[:1]) > 0))
    order = np.lexsort((x, line))
    patch, chars = patch[order], chars[order]
    first = np.searchsorted(patch, patch, side="left")
    slot = np.arange(len(patch)) - first
    kept = slot < SLOTS
    sorted_chars = np.zeros((rows * columns, SLOTS), np.uint8)
    sorted_chars[patch[kept], slot[kept]] = chars[kept] + 1
    return sorted_chars


@dataclass(frozen=True)
class WorkerTask:
    """What a worker process needs to start."""

    data: Path
    tokenizer: Path
    shape: BatchShape
    seed: int
    number: int
    mix: PageMix = PageMix()

    def packer(self) -> Packer:
        tokenizer = Tokenizer.from_file(str(self.tokenizer / "tokenizer.json"))
        text = TextMix(echo=self.mix.echo, marks=self.mix.marks, alike=self.mix.alike)
        studio = Studio.from_folder(self.data, mix=text, crowded=self.mix.crowded)
        return Packer(studio, tokenizer, self.shape, self.mix)


@dataclass(frozen=True)
class InkShelf:
    """Shared memory where the ink of batches waits. Through a pipe it would arrive in hundreds of small
    pieces, each of which waits for the interpreter lock of the process that trains: 28 batches a second at
    most, however many workers draw."""

    memory: Any  # ctypes array of uint8 [slots * room]
    room: int
    free: Any  # a queue with the numbers of the free slots

    @classmethod
    def with_slots(cls, context: Any, slots: int, room: int) -> InkShelf:
        free = context.Queue()
        for slot in range(slots):
            free.put(slot)
        return cls(context.RawArray(ctypes.c_uint8, slots * room), room, free)

    def put(self, ink: NDArray[np.uint8]) -> int:
        """Waits for a free slot, copies ink into it and returns its number."""
        slot = int(self.free.get())
        self._view(slot, ink.shape)[:] = ink
        return slot

    def take(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A copy of a slot's ink; the slot is free again."""
        ink = self._view(slot, shape).copy()
        self.free.put(slot)
        return ink

    def _view(self, slot: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        flat = np.frombuffer(self.memory, np.uint8)[slot * self.room :]
        return flat[: int(np.prod(shape))].reshape(shape)


@dataclass(frozen=True)
class Shelved:
    """A batch whose ink, of this shape, lies on the shelf."""

    batch: Batch
    slot: int
    shape: tuple[int, ...]


def work(task: WorkerTask, weights: Any, shelf: InkShelf, outbox: Any) -> None:
    """A worker's life: batches into the outbox for ever, or one message if something breaks."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    nothing = np.empty(0, np.uint8)
    try:
        packer = task.packer()
        rng = np.random.default_rng((task.seed, task.number))
        while True:
            batch = packer.draw(rng, list(weights))
            outbox.put(Shelved(replace(batch, ink=nothing), shelf.put(batch.ink), batch.ink.shape))
    except Exception:
        outbox.put(traceback.format_exc())


class BatchSource:
    """Batches from worker processes, some of them always ready.

    Args:
        data: A folder that fetch_data filled; glyphs are drawn beside it at the first start.
        tokenizer: The folder with tokenizer.json.
        weights: How often each level of LEVELS is drawn; may change at run time.
        workers: How many processes draw.
        seed: Each worker's pages follow from it and the worker's number.
        mix: What the pages are like.
        ahead: How many batches may wait.
    """

    def __init__(
        self,
        data: Path,
        tokenizer: Path,
        *,
        weights: Sequence[float],
        workers: int = 12,
        seed: int = 0,
        shape: BatchShape | None = None,
        mix: PageMix | None = None,
        ahead: int = 24,
    ) -> None:
        draw_all(data, workers)
        context = multiprocessing.get_context("spawn")
        self._weights = context.Array("d", list(weights))
        self._outbox = context.Queue()
        shape, mix = shape or BatchShape(), mix or PageMix()
        self._shelf = InkShelf.with_slots(context, ahead, shape.largest)
        tasks = [WorkerTask(data, tokenizer, shape, seed, number, mix) for number in range(workers)]
        self._workers = [
            context.Process(target=work, args=(task, self._weights, self._shelf, self._outbox), daemon=True)
            for task in tasks
        ]
        for worker in self._workers:
            worker.start()

    def set_weights(self, weights: Sequence[float]) -> None:
        """Draws levels by these weights from each worker's next batch on."""
        with self._weights.get_lock():
            self._weights[:] = list(weights)

    def get(self) -> Batch:
        """The next batch. Raises RuntimeError with a worker's traceback if one broke or died."""
        while True:
            try:
                item = self._outbox.get(timeout=5.0)
            except queue.Empty:
                if not all(worker.is_alive() for worker in self._workers):
                    raise RuntimeError("A process that draws pages died.") from None
                continue
            if isinstance(item, Shelved):
                return replace(item.batch, ink=self._shelf.take(item.slot, item.shape))
            raise RuntimeError(f"A process that draws pages broke:\n{item}")

    def close(self) -> None:
        """Ends the workers; batches that wait are dropped."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()
        for waiting in (self._outbox, self._shelf.free):
            waiting.close()
            waiting.cancel_join_thread()


def main() -> None:
    here = Path(__file__)
    parser = argparse.ArgumentParser(description="Measure how fast one process draws and packs pages.")
    parser.add_argument("--data", type=Path, default=here.parent / ".data")
    parser.add_argument("--tokenizer", type=Path, default=here.parents[2] / "src/mlx_chandra/demo/checkpoint")
    options = parser.parse_args()
    packer = WorkerTask(
        options.data, options.tokenizer, BatchShape(pixels=4_000_000, most=100), 0, 0
    ).packer()
    rng = np.random.default_rng(0)
    for number, level in enumerate(LEVELS):
        batches, seconds = [], 0.0
        for size in level.sizes:
            packer.pack(rng, number, size, PromptKind.OCR_LAYOUT)
            start = time.perf_counter()
            batches += [
                packer.pack(rng, number, size, kind) for kind in (PromptKind.SHORT, PromptKind.OCR_LAYOUT)
            ]
            seconds += time.perf_counter() - start
        lengths = np.concatenate([batch.answer_len for batch in batches])
        p10, p50, p90 = np.percentile(lengths, (10, 50, 90)).astype(int)
        print(
            f"{level.name:10} {len(lengths) / seconds:6.0f} pages/s  answer tokens: "
            f"{p10} {p50} {p90} (10th, 50th, 90th percentile) of {level.max_answer_tokens}"
        )


if __name__ == "__main__":
    main()

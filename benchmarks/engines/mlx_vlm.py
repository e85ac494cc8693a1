"""mlx-vlm 0.7.10 in three modes: batch_generate as it is, with group_by_shape=False, and its BatchGenerator.

Two defects of this release are worked around. Its detokenizer fails on added tokens that hold a space, which
the demo checkpoint has: tokens are collected here and decoded at the end. A prefill of several pages sorts
the pages by length but not their deepstack features: pages are handed over sorted with group_by_shape=False,
and the BatchGenerator prefills one page at a time. Otherwise its answers are wrong.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import numpy as np
from mlx_vlm.generate import ar
from mlx_vlm.models.qwen3_vl import Model, ModelConfig
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import load_image, prepare_inputs, process_image
from PIL import Image

from benchmarks.engines.base import Answer, EngineName, Outcome, Setup
from benchmarks.made_model import Naming, config_json, made_tensors
from benchmarks.workloads import MadePage
from mlx_chandra.processing.processor import Processor
from mlx_chandra.processing.prompt import PromptType, prompt_text

_AHEAD = 2  # pages whose pictures are encoded before a slot is free for them


class _Tokens:
    """A detokenizer that keeps the tokens of each answer and decodes nothing."""

    def __init__(self) -> None:
        self.answers: list[list[int]] = []

    def reset(self) -> None:
        self._tokens: list[int] = []

    def add_token(self, token: int) -> None:
        self._tokens.append(int(token))

    def finalize(self) -> None:
        self.answers.append(self._tokens)

    @property
    def text(self) -> str:
        return ""


class _NeverStops:
    """Stopping criteria that never stop."""

    def add_eos_token_ids(self, ids: object = None) -> None:
        pass

    def __call__(self, token: int) -> bool:
        return False


class _Tokenizer:
    stopping_criteria = _NeverStops()
    pad_token = eos_token = ""


class _MadeProcessor:
    """Answers mlx-vlm's questions with inputs made beforehand; a page's prompt is its number."""

    chat_template = "the page's number"
    image_token = ""
    tokenizer = _Tokenizer()

    def __init__(self, pages: Sequence[MadePage]) -> None:
        self.detokenizer = _Tokens()
        self._pages = pages

    def apply_chat_template(self, messages: Any, tokenize: bool = False, **_: object) -> str:
        content = messages[-1]["content"]
        texts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        return "".join(texts).strip()

    def __call__(
        self, text: list[str], images: object = None, padding: object = None, return_tensors: object = None
    ) -> dict[str, mx.array]:
        return _padded([self._pages[int(number)] for number in text])


def _padded(pages: Sequence[MadePage]) -> dict[str, mx.array]:
    """Token ids [B, longest], padded on the left, with mask, patches and grids."""
    longest = max(len(page.inputs.token_ids) for page in pages)
    ids = np.zeros((len(pages), longest), np.int32)
    mask = np.zeros_like(ids)
    for row, page in enumerate(pages):
        ids[row, longest - len(page.inputs.token_ids) :] = page.inputs.token_ids
        mask[row, longest - len(page.inputs.token_ids) :] = 1
    grids = [(page.inputs.image.grid.t, page.inputs.image.grid.h, page.inputs.image.grid.w) for page in pages]
    return {
        "input_ids": mx.array(ids),
        "attention_mask": mx.array(mask),
        "pixel_values": mx.array(np.concatenate([page.inputs.image.patches for page in pages])),
        "image_grid_thw": mx.array(grids),
    }


class MlxVlm:
    def __init__(self, name: EngineName, setup: Setup) -> None:
        self._name, self._batch = name, setup.batch
        dtype = {"float32": mx.float32, "bfloat16": mx.bfloat16}[setup.dtype]
        if isinstance(setup.source, Path):
            self._model, self._processor = mlx_vlm.load(str(setup.source))
            self._model.set_dtype(dtype)
            self._prompt = prompt_text(PromptType.OCR_LAYOUT, Processor.from_folder(setup.source).family)
        else:
            self._model = Model(ModelConfig.from_dict(config_json(setup.source)))
            self._model.load_weights(list(made_tensors(setup.source, dtype, Naming.MLX_VLM)))
        self._model.eval()
        mx.eval(self._model.parameters())
        mx.clear_cache()
        mx.reset_peak_memory()

    def read_files(self, paths: Sequence[Path], max_tokens: int) -> Outcome:
        tokens = self._read_files(paths, max_tokens)
        texts = [self._processor.tokenizer.decode(answer, skip_special_tokens=True) for answer in tokens]
        pages = zip(texts, tokens, strict=True)
        # a page that stops by itself has generated its stop token too, which is not among these
        return Outcome([Answer(text, len(answer) + (len(answer) < max_tokens)) for text, answer in pages])

    def _read_files(self, paths: Sequence[Path], max_tokens: int) -> list[list[int]]:
        if self._name is EngineName.MLX_VLM_CONTINUOUS:
            inputs = (self._file_inputs(path) for path in paths)
            return self._continuous(self._processor, inputs, [max_tokens] * len(paths))
        opened = [load_image(str(path)) for path in paths]  # as it does with paths itself
        order = list(range(len(paths)))
        if self._name is EngineName.MLX_VLM_UNGROUPED:
            order.sort(key=lambda index: self._image_tokens(opened[index]))
        self._processor.detokenizer = _Tokens()
        images = [opened[index] for index in order]
        prompts = [self._prompt] * len(order)
        self._batch_generate(self._processor, images, prompts, [max_tokens] * len(order))
        return _unsorted(self._processor.detokenizer.answers, self._group_order(images, order))

    def _batch_generate(
        self, processor: Any, images: list[Image.Image], prompts: list[str], max_tokens: list[int]
    ) -> None:
        grouped = self._name is EngineName.MLX_VLM
        size = len(images) if grouped else self._batch
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            mlx_vlm.batch_generate(
                self._model,
                processor,
                images=images[part],
                prompts=prompts[part],
                max_tokens=max_tokens[part],
                group_by_shape=grouped,
            )

    def _group_order(self, images: Sequence[Image.Image], order: list[int]) -> list[int]:
        """The order in which answers are detokenized: group by group where pages are grouped."""
        if self._name is not EngineName.MLX_VLM:
            return order
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in zip(order, images, strict=True):
            groups.setdefault(image.size, []).append(index)
        return [index for group in groups.values() for index in group]

    def _image_tokens(self, image: Image.Image) -> int:
        return int(self._processor.image_processor.num_image_tokens(image.height, image.width))

    def read_made(self, pages: Sequence[MadePage]) -> Outcome:
        processor = _MadeProcessor(pages)
        limits = [page.output_tokens for page in pages]
        if self._name is EngineName.MLX_VLM_CONTINUOUS:
            answers = self._continuous(processor, (_padded([page]) for page in pages), limits)
            return Outcome([Answer(None, len(answer)) for answer in answers])
        order = list(range(len(pages)))
        if self._name is EngineName.MLX_VLM_UNGROUPED:
            order.sort(key=lambda index: len(pages[index].inputs.token_ids))
        pictures = {
            size: Image.new("RGB", (size[1], size[0])) for size in {page.inputs.image_size for page in pages}
        }
        images = [pictures[pages[index].inputs.image_size] for index in order]
        numbers = [str(index) for index in order]
        self._batch_generate(processor, images, numbers, [limits[index] for index in order])
        answers = _unsorted(processor.detokenizer.answers, self._group_order(images, order))
        return Outcome([Answer(None, len(answer)) for answer in answers])

    def _file_inputs(self, path: Path) -> dict[str, mx.array]:
        """Prepare one page as batch_generate would."""
        processor = self._processor
        image = process_image(str(path), None, processor.image_processor)
        prompt = apply_chat_template(processor, self._model.config, self._prompt, num_images=1)
        inputs: dict[str, mx.array] = prepare_inputs(processor, images=[image], prompts=[prompt])
        return inputs

    def _continuous(
        self, processor: Any, pages: Iterator[dict[str, mx.array]], limits: list[int]
    ) -> list[list[int]]:
        """Give the BatchGenerator page by page, as slots become free."""
        generator = ar.BatchGenerator(
            self._model.language_model,
            processor,
            completion_batch_size=self._batch,
            prefill_batch_size=1,
            prefill_step_size=None,
            compute_logprobs=False,
        )
        answers: dict[int, list[int]] = {}
        waiting = iter(limits)
        more = True
        while more or generator.has_work:
            while more and len(generator.unprocessed_prompts) < _AHEAD:
                page = next(pages, None)
                more = page is not None
                if page is not None:
                    answers[self._insert(generator, page, next(waiting))] = []
            for response in generator.next()[1]:
                if response.finish_reason != "stop":
                    answers[response.uid].append(response.token)
        generator.close()
        return [answers[uid] for uid in sorted(answers)]

    def _insert(self, generator: Any, page: dict[str, mx.array], limit: int) -> int:
        given = {name: array for name, array in page.items() if array is not None}
        ids, mask, pixels = (given.pop(name) for name in ("input_ids", "attention_mask", "pixel_values"))
        embedded = self._model.get_input_embeddings(ids, pixels, mask=mask, **given).to_dict()
        named = {**given, **{name: value for name, value in embedded.items() if value is not None}}
        (uid,) = generator.insert(ids, [limit], prompt_kwargs=[named], attention_mask=mask)
        return int(uid)

    def peak_device_bytes(self) -> int:
        return mx.get_peak_memory()


def _unsorted(answers: list[list[int]], order: list[int]) -> list[list[int]]:
    """answers[i] belongs to page order[i]; returns them by page."""
    by_page = dict(zip(order, answers, strict=True))
    return [by_page[index] for index in range(len(order))]

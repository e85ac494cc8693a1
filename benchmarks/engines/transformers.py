"""transformers: model.generate over static batches, each batch as long as its longest answer.

Pages are sorted by the length of their prompts, so that batches are padded little. That favours it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.engines.base import Answer, Outcome, Setup
from benchmarks.made_model import Dimensions, Naming, config_json, made_tensors
from benchmarks.workloads import MadePage
from mlx_chandra.documents.image_files import open_page
from mlx_chandra.processing.processor import Processor
from mlx_chandra.processing.prompt import PromptType, prompt_text


class Transformers:
    def __init__(self, setup: Setup) -> None:
        self._batch = setup.batch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[setup.dtype]
        if isinstance(setup.source, Path):
            self._open_folder(setup.source)
        else:
            self._model = self._made(setup.source)
        self._model.eval()
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _open_folder(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        text = prompt_text(PromptType.OCR_LAYOUT, Processor.from_folder(folder).family)
        content = [{"type": "image"}, {"type": "text", "text": text}]
        self._prompt: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=self._dtype)
        self._model = model.to(self._device)

    def _made(self, size: Dimensions) -> Any:
        usual = torch.get_default_dtype()
        torch.set_default_dtype(self._dtype)  # and not .to() afterwards: rotary tables stay in float32
        try:
            with torch.device(self._device):
                model = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(config_json(size)))
        finally:
            torch.set_default_dtype(usual)
        places = model.state_dict()
        dtype = mx.float32 if self._dtype is torch.float32 else mx.bfloat16
        for name, tensor in made_tensors(size, dtype, Naming.HUGGING_FACE):
            places.pop(name).copy_(_as_torch(tensor))  # into the model's own memory
        if places:
            raise RuntimeError(f"transformers has tensors that were not made: {sorted(places)[:5]}")
        mx.clear_cache()  # torch needs the memory
        return model

    def read_files(self, paths: Sequence[Path], max_tokens: int) -> Outcome:
        pages = [self._file_inputs(path) for path in paths]
        stops = self._model.generation_config.eos_token_id
        stops = set(stops) if isinstance(stops, list) else {stops}
        answers: dict[int, Answer] = {}
        for batch in self._batches([len(ids) for ids, _, _ in pages]):
            rows = self._generate([pages[index] for index in batch], max_tokens)
            for index, row in zip(batch, rows, strict=True):
                end = next((place + 1 for place, token in enumerate(row) if token in stops), len(row))
                text = self._tokenizer.decode(row[:end], skip_special_tokens=True)
                answers[index] = Answer(text, end)
        return Outcome([answers[index] for index in range(len(pages))])

    def read_made(self, pages: Sequence[MadePage]) -> Outcome:
        self._model.generation_config.eos_token_id = None
        for batch in self._batches([len(page.inputs.token_ids) for page in pages]):
            chosen = [pages[index] for index in batch]
            steps = max(page.output_tokens for page in chosen)
            rows = self._generate([_made_inputs(page) for page in chosen], steps)
            if any(len(row) < steps for row in rows):
                raise RuntimeError("transformers stopped before the length that was asked for")
        return Outcome([Answer(None, page.output_tokens) for page in pages])

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        order = sorted(range(len(lengths)), key=lambda index: lengths[index])
        return [order[start : start + self._batch] for start in range(0, len(order), self._batch)]

    def _file_inputs(self, path: Path) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        """ids, patches [P, values] and grid [1, 3]"""
        pixels = self._image_processor(open_page(path), return_tensors="pt")
        grid = pixels["image_grid_thw"]
        count = int(grid.prod()) // self._image_processor.merge_size**2
        token = self._tokenizer.convert_ids_to_tokens(self._model.config.image_token_id)
        ids = self._tokenizer(self._prompt.replace(token, token * count))["input_ids"]
        return list(ids), pixels["pixel_values"], grid

    @torch.no_grad()
    def _generate(
        self, pages: list[tuple[list[int], torch.Tensor, torch.Tensor]], max_tokens: int
    ) -> list[list[int]]:
        longest = max(len(ids) for ids, _, _ in pages)
        padding = self._model.config.video_token_id  # masked; any token but the picture's will do
        rows = torch.tensor([[padding] * (longest - len(ids)) + ids for ids, _, _ in pages])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _, _ in pages])
        output = self._model.generate(
            input_ids=rows.to(self._device),
            attention_mask=mask.to(self._device),
            pixel_values=torch.cat([pixels for _, pixels, _ in pages]).to(self._device, self._dtype),
            image_grid_thw=torch.cat([grid for _, _, grid in pages]).to(self._device),
            mm_token_type_ids=(rows == self._model.config.image_token_id).int().to(self._device),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=padding,
        )
        answers: list[list[int]] = output[:, longest:].tolist()
        return answers

    def peak_device_bytes(self) -> int | None:
        return int(torch.cuda.max_memory_allocated()) if self._device == "cuda" else None


def _made_inputs(page: MadePage) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    grid = page.inputs.image.grid
    patches = torch.from_numpy(page.inputs.image.patches)
    return page.inputs.token_ids.tolist(), patches, torch.tensor([[grid.t, grid.h, grid.w]])


def _as_torch(tensor: mx.array) -> torch.Tensor:
    if tensor.dtype == mx.bfloat16:  # numpy knows no bfloat16: its bits travel as integers
        return torch.from_numpy(np.array(tensor.view(mx.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(tensor))

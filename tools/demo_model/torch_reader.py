"""Reads exam pages with the training model itself: grouped by page size and prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.demo_model.decode import read_pages
from tools.demo_model.exam import PAPERS, Question
from tools.demo_model.export import read_weights
from tools.demo_model.model import DemoConfig, DemoModel
from tools.demo_model.pages import LEVELS
from tools.demo_model.prompts import PromptTokens

AT_ONCE = 128  # pages
GROUP = 64


def quantised(weight: Tensor, bits: int) -> Tensor:
    """What MLX's affine quantisation keeps of a matrix: a scale and a bias for each group of a row."""
    groups = weight.float().view(-1, GROUP)
    low = groups.amin(1, keepdim=True)
    scale = ((groups.amax(1, keepdim=True) - low) / (2**bits - 1)).clamp(min=1e-7)
    return (((groups - low) / scale).round() * scale + low).view(weight.shape).to(weight.dtype)


@dataclass(frozen=True)
class TorchReader:
    """A model with what is needed to ask it."""

    model: DemoModel
    prompts: PromptTokens
    tokenizer_file: Path

    @classmethod
    def from_files(
        cls, parts: Sequence[Path], tokenizer: Path, data: Path, bits: int, dtype: torch.dtype
    ) -> TorchReader:
        """Weights as training wrote them or as exported, tokenizer.json in a folder, prompts.json in the data
        folder."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = DemoModel(DemoConfig())
        state = read_weights(parts, model.config)
        if bits:
            state = {
                name: quantised(value, bits) if value.ndim == 2 and "positions" not in name else value
                for name, value in state.items()
            }
        model.load_state_dict(state)
        model.to(device, dtype)
        return cls(model.eval(), PromptTokens.from_folder(tokenizer, data), tokenizer / "tokenizer.json")

    def read(self, questions: Sequence[Question]) -> list[str]:
        """An answer in HTML for each question."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.tokenizer_file))
        groups: dict[tuple[int, int, int, int], list[int]] = defaultdict(list)
        for place, question in enumerate(questions):
            groups[(*question.image.size, question.level, PAPERS[question.paper].prompt)].append(place)
        answers = [""] * len(questions)
        for (_, _, level, prompt), places in groups.items():
            for start in range(0, len(places), AT_ONCE):
                chosen = places[start : start + AT_ONCE]
                rows = self.read_group([questions[place] for place in chosen], level, prompt)
                for place, row in zip(chosen, rows, strict=True):
                    answers[place] = tokenizer.decode(row, skip_special_tokens=True)
        return answers

    def read_group(self, questions: Sequence[Question], level: int, prompt: int) -> list[list[int]]:
        """Pages of one size with one prompt, together."""
        device, dtype = self.model.embedding.device, self.model.embedding.dtype
        pixels = np.stack([np.asarray(question.image, np.float32) for question in questions])
        pages = torch.from_numpy(pixels / 127.5 - 1).to(device, dtype)
        return read_pages(
            self.model,
            pages,
            list(self.prompts.lead),
            list(self.prompts.after[prompt]),
            self.prompts.stop,
            LEVELS[level].max_answer_tokens + 64,
        )

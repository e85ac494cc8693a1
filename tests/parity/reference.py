"""transformers' Qwen3-VL on one of our small checkpoints: what the models here are compared with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ReferencePage:
    """What transformers makes of one page.

    token_ids [T]; grid [3]; vision [N, hidden]; deepstack [K, N, hidden]; logits [T, vocab] of the prompt;
    greedy [steps]; lead is the smallest distance from the best to the second logit over the greedy steps.
    """

    token_ids: Ints
    grid: Ints
    vision: Floats
    deepstack: Floats
    logits: Floats
    greedy: Ints
    lead: float


class Reference:
    """transformers' own tokenizer, image processor and model, opened from a checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.model.generation_config.eos_token_id = None  # the greedy tokens go on past every end

    def token_ids(self, prompt: str, image_tokens: int) -> list[int]:
        """The prompt's ids, the image token repeated, as transformers' processor does it."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        image_token = self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)
        return list(self.tokenizer(text.replace(image_token, image_token * image_tokens))["input_ids"])

    @torch.no_grad()
    def read(self, image: Image.Image, prompt: str, steps: int) -> ReferencePage:
        """Runs one page: vision tower, prompt, and `steps` greedy tokens with no stop."""
        pixels = self.image_processor(image, return_tensors="pt")
        grid = pixels["image_grid_thw"]
        token_ids = self.token_ids(prompt, int(grid.prod()) // self.image_processor.merge_size**2)
        ids = torch.tensor([token_ids])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels["pixel_values"],
            "image_grid_thw": grid,
            "mm_token_type_ids": (ids == self.model.config.image_token_id).int(),
        }
        vision = self.model.model.visual(pixels["pixel_values"], grid_thw=grid)
        logits = self.model(**inputs).logits[0]
        answer = self.model.generate(
            **inputs,
            max_new_tokens=steps,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.cat(answer.logits).topk(2).values
        return ReferencePage(
            token_ids=np.array(token_ids, np.int32),
            grid=grid[0].numpy().astype(np.int32),
            vision=vision.pooler_output.numpy(),
            deepstack=torch.stack(list(vision.deepstack_features)).numpy(),
            logits=logits.numpy(),
            greedy=answer.sequences[0, len(token_ids) :].numpy().astype(np.int32),
            lead=float((best[:, 0] - best[:, 1]).min()),
        )

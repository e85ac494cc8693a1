"""Makes a model's inputs from a page picture and a prompt, for one checkpoint folder.

One user turn, the picture before the text, through the checkpoint's own chat template; the one image token in
it is repeated once for every merged patch.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlx_chandra.errors import CheckpointError, UsageError
from mlx_chandra.files.json_file import JsonFile
from mlx_chandra.processing.image import Grid, ImageSettings, PatchedImage, patch_image, target_grid
from mlx_chandra.processing.prompt import ModelFamily, PromptType, prompt_text
from mlx_chandra.processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    _Ids = tuple[tuple[int, ...], tuple[int, ...]]

END_TOKENS = ("<|im_end|>", "<|endoftext|>")
REMEMBERED_PROMPTS = 64


@dataclass(frozen=True)
class PageInputs:
    """One page, ready for the model."""

    token_ids: npt.NDArray[np.int32]  # [T], the image token repeated once for every merged patch
    image: PatchedImage
    image_size: tuple[int, int]  # height and width of the page picture as it was given, in pixels


@dataclass(frozen=True, eq=False)
class Processor:
    """Everything a checkpoint folder says about its inputs. Safe to use from several threads at a time."""

    tokenizer: Tokenizer
    image_settings: ImageSettings
    family: ModelFamily  # the model whose prompts the checkpoint answers
    image_token_id: int  # stands for one merged patch of the picture
    stop_token_ids: frozenset[int]  # an answer ends at any of these

    @classmethod
    def from_folder(cls, folder: Path) -> "Processor":
        """Read config.json, the tokenizer's, the image processor's and the generation settings.

        Raises CheckpointError for a file that is missing, damaged or says something that can't be.
        """
        config = JsonFile.read(folder / "config.json")
        tokenizer = Tokenizer.from_folder(folder)
        stop_token_ids = _stop_token_ids(folder, config, tokenizer)
        if not stop_token_ids:
            raise CheckpointError(
                f"{folder}: nothing says which token ends an answer.",
                "generation_config.json should hold 'eos_token_id'.",
            )
        return cls(
            tokenizer,
            ImageSettings.from_folder(folder),
            _family(config),
            config.count("image_token_id", least=0),
            stop_token_ids,
        )

    def prepare(
        self, image: "Image.Image", prompt: str | PromptType, max_size: int | None = None
    ) -> PageInputs:
        """Make a page's inputs from an upright picture and one of the model's own prompts, or any text.

        First brings the longest side down to `max_size` pixels, when given.

        Raises:
            PageError: The picture's shape is one that the model can't take.
            UsageError: The prompt's text holds the image token.
            CheckpointError: The chat template has no place for the picture.
        """
        before, after = self._around_picture(prompt)
        patched = patch_image(image, self.image_settings, max_size)
        picture = [self.image_token_id] * self.image_tokens(patched.grid)
        token_ids = np.array([*before, *picture, *after], dtype=np.int32)
        return PageInputs(token_ids, patched, (image.height, image.width))

    def prompt_tokens(
        self, shape: tuple[int, int], prompt: str | PromptType, max_size: int | None = None
    ) -> int:
        """Return how many tokens `prepare` makes of a page of this height and width. Raises likewise."""
        before, after = self._around_picture(prompt)
        grid = target_grid(shape, self.image_settings, max_size)
        return len(before) + self.image_tokens(grid) + len(after)

    def image_tokens(self, grid: Grid) -> int:
        """Return how many tokens stand for a picture of this grid."""
        return grid.patches // self.image_settings.merge_size**2

    def decode(self, ids: "Sequence[int]") -> str:
        """Return the text of an answer, special tokens left out."""
        return self.tokenizer.decode(ids)

    @cached_property
    def _around_picture(self) -> "Callable[[str | PromptType], _Ids]":
        """Return what gives the ids before and behind the picture, and remembers those of used prompts."""
        # typed: a PromptType equals the text that is its name
        return lru_cache(maxsize=REMEMBERED_PROMPTS, typed=True)(self._encode_prompt)

    def _encode_prompt(self, prompt: str | PromptType) -> "_Ids":
        text = prompt_text(prompt, self.family) if isinstance(prompt, PromptType) else prompt
        content = [{"type": "image"}, {"type": "text", "text": text}]
        ids = self.tokenizer.encode(
            self.tokenizer.apply_chat_template([{"role": "user", "content": content}])
        )
        if self.image_token_id in self.tokenizer.encode(text):
            raise UsageError(
                "The prompt holds the token that stands for the picture.", "Take it out of the prompt."
            )
        if ids.count(self.image_token_id) != 1:
            raise CheckpointError(
                f"The chat template gives {ids.count(self.image_token_id)} image tokens "
                f"(id {self.image_token_id}) for one picture instead of 1.",
                "The chat template, tokenizer.json and config.json's 'image_token_id' don't belong together.",
            )
        place = ids.index(self.image_token_id)
        return tuple(ids[:place]), tuple(ids[place + 1 :])


def _family(config: JsonFile) -> ModelFamily:
    """Return whose prompts the checkpoint answers: what `chandra_prompts` says, or else its architecture."""
    key = "chandra_prompts" if config.get("chandra_prompts") else "model_type"
    if config.need(key) not in list(ModelFamily):
        raise config.wrong(key, f"one of {', '.join(ModelFamily)}")
    return ModelFamily(config.need(key))


def _stop_token_ids(folder: Path, config: JsonFile, tokenizer: Tokenizer) -> frozenset[int]:
    """Return all ids that any of the checkpoint's files says an answer ends with."""
    generation = JsonFile.read(folder / "generation_config.json", {})
    ids = {
        stop for file in (generation, config, config.section("text_config", {})) for stop in _eos_ids(file)
    }
    names = [*END_TOKENS, *([tokenizer.eos_token] if tokenizer.eos_token else [])]
    ids.update(found for name in names if (found := tokenizer.find_token(name)) is not None)
    return frozenset(ids)


def _eos_ids(file: JsonFile) -> tuple[int, ...]:
    value = file.get("eos_token_id", [])
    items = value if isinstance(value, list) else [value]
    return replace(file, values={"eos_token_id": items}).counts("eos_token_id")

"""What models and image processing are compared on, by the stored references and by the live tests alike.

Two shapes that differ wherever a mistake could hide (head counts, deepstack places, tied and untied, M-RoPE
sections, position grids), and pages of nine sizes, very wide and very tall ones among them.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.checkpoints import CheckpointShape, ConfigForm

PROMPT = "Read the page, then 12 lines more."
GREEDY_STEPS = 64
VISION_COLUMNS = 8  # of each row of the vision output and the deepstack features, stored
LOGIT_COLUMNS = 16  # of the logits at every position, stored; the last position's are stored whole
TOLERANCE = 1e-4  # absolute, float32, on values of the order of 1 to 10
# Greedy tokens can only be held to be the same where the best logit leads the second by more than that.
SMALLEST_LEAD = 10 * TOLERANCE


@dataclass(frozen=True)
class ModelCase:
    """One small checkpoint to compare on."""

    name: str
    shape: CheckpointShape
    seed: int
    form: ConfigForm


MODEL_CASES = (
    ModelCase(
        "a",
        CheckpointShape(
            hidden=64,
            layers=3,
            heads=4,
            kv_heads=2,
            head_dim=16,
            intermediate=96,
            mrope_section=(4, 2, 2),
            rope_theta=10_000.0,
            vocab=288,
            tied=True,
            vision_depth=4,
            vision_hidden=32,
            vision_heads=2,
            vision_intermediate=64,
            deepstack=(0, 2),
            num_position_embeddings=64,
        ),
        seed=1,
        form=ConfigForm.ROPE_SCALING,
    ),
    ModelCase(
        "b",
        CheckpointShape(
            hidden=48,
            layers=4,
            heads=6,
            kv_heads=1,
            head_dim=32,
            intermediate=80,
            mrope_section=(6, 5, 5),
            rope_theta=5_000_000.0,
            vocab=300,
            tied=False,
            vision_depth=5,
            vision_hidden=48,
            vision_heads=4,
            vision_intermediate=72,
            deepstack=(1, 2, 4),
            num_position_embeddings=144,
        ),
        seed=1,
        form=ConfigForm.ROPE_PARAMETERS,
    ),
)

# Height and width in pixels.
IMAGE_SIZES = (
    (32, 640),
    (704, 32),
    (64, 64),
    (96, 160),
    (33, 47),
    (224, 224),
    (320, 64),
    (129, 287),
    (20, 500),
)

# For the image processor alone: height, width and --max-size (or none); bounds as Chandra's checkpoints have.
IMAGE_PROCESSOR_CASES = (
    (1, 1, None),
    (5, 1000, None),
    (320, 256, None),
    (333, 777, None),
    (1000, 640, None),
    (1200, 800, 512),
    (90, 1500, 640),
    (300, 200, 512),
)
MIN_PIXELS, MAX_PIXELS = 65_536, 16_777_216
TARGET_SIZE_BOUNDS = ((65_536, 16_777_216), (1_024, 1_048_576), (3_136, 100_352))
PIXEL_TOLERANCE = 1e-6  # between two processors on one machine
LEVEL = (
    2 / 255
)  # one step of 8-bit grey after normalising: as far as one machine's resizing may be from another's


def page_image(height: int, width: int) -> Image.Image:
    """A page-like picture, the same on every machine: bars of several greys and colours, and noise."""
    source = np.random.Generator(np.random.PCG64(height * 10_000 + width))
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    waves = 90 * np.sin(rows / (5, 9, 13)) * np.cos(columns / (7, 4, 11)) + 128  # [H, W, 3]
    noise = 70 * (source.random((height, width, 3)) - 0.5)
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


def image_name(size: tuple[int, int]) -> str:
    """The size as it stands in the names of stored arrays."""
    return f"{size[0]}x{size[1]}"

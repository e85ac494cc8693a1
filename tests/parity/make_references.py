"""Writes tests/data/*.npz: what transformers makes of the small checkpoints and of some pictures.

Run in the environment of `make check`, from the project's folder, after changing the cases:

    python -m tests.parity.make_references

The checkpoints themselves are not stored: the same seeds make them anew wherever the tests run.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from tests.checkpoints import random_weights, write_huggingface_checkpoint
from tests.parity.cases import (
    GREEDY_STEPS,
    IMAGE_PROCESSOR_CASES,
    IMAGE_SIZES,
    LOGIT_COLUMNS,
    MAX_PIXELS,
    MIN_PIXELS,
    MODEL_CASES,
    PROMPT,
    SMALLEST_LEAD,
    TARGET_SIZE_BOUNDS,
    VISION_COLUMNS,
    ModelCase,
    image_name,
    page_image,
)
from tests.parity.reference import Reference

DATA = Path(__file__).parents[1] / "data"


def case_arrays(case: ModelCase, folder: Path) -> dict[str, np.ndarray]:
    """All that is stored of one checkpoint, by `case/size/what`."""
    reference = Reference(write_huggingface_checkpoint(folder, case.shape, seed=case.seed, form=case.form))
    weights = random_weights(case.shape, case.seed).values()
    arrays = {f"{case.name}/weights": np.array(sum(float(np.abs(w).sum(dtype=np.float64)) for w in weights))}
    for size in IMAGE_SIZES:
        page = reference.read(page_image(*size), PROMPT, GREEDY_STEPS)
        if page.lead < SMALLEST_LEAD:
            raise SystemExit(
                f"{case.name} {size}: two tokens are only {page.lead} apart; take another seed in cases.py."
            )
        print(
            f"{case.name} {image_name(size)}: {len(page.token_ids)} ids, smallest lead {page.lead:.4f}, "
            f"{len(set(page.greedy.tolist()))} different tokens"
        )
        name = f"{case.name}/{image_name(size)}"
        arrays[f"{name}/token_ids"] = page.token_ids
        arrays[f"{name}/grid"] = page.grid
        arrays[f"{name}/vision"] = page.vision[:, :VISION_COLUMNS]
        arrays[f"{name}/deepstack"] = page.deepstack[:, :, :VISION_COLUMNS]
        arrays[f"{name}/logits"] = page.logits[:, :LOGIT_COLUMNS]
        arrays[f"{name}/last_logits"] = page.logits[-1]
        arrays[f"{name}/greedy"] = page.greedy
    return arrays


def image_arrays() -> dict[str, np.ndarray]:
    """Grids, channel means and a few patches of pictures, and a table of sizes by Qwen's rule."""
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    arrays = {}
    for height, width, max_size in IMAGE_PROCESSOR_CASES:
        image = page_image(height, width)
        if max_size is not None and max(height, width) > max_size:
            limited = (
                round(width * max_size / max(height, width)),
                round(height * max_size / max(height, width)),
            )
            image = image.resize(limited, Image.Resampling.BICUBIC)
        out = processor(image, return_tensors="np")
        patches, name = out["pixel_values"], f"{height}x{width}-{max_size}"
        arrays[f"{name}/grid"] = out["image_grid_thw"][0].astype(np.int32)
        arrays[f"{name}/means"] = patches.reshape(len(patches), 3, -1).mean(axis=(0, 2), dtype=np.float64)
        arrays[f"{name}/patches"] = patches[[0, 1, 2, len(patches) // 2, -1]]
    arrays["target_sizes"] = np.array(target_sizes(), np.int32)
    return arrays


def target_sizes() -> list[tuple[int, ...]]:
    """Rows of height, width, smallest and largest area, and the height and width that Qwen's rule gives."""
    source = np.random.Generator(np.random.PCG64(5))
    rows = []
    for low, high in TARGET_SIZE_BOUNDS:
        for top in (60, 400, 3000, 12_000):
            for height, width in source.integers(1, top, (60, 2)).tolist():
                if max(height, width) <= 200 * min(height, width):
                    size = smart_resize(height, width, factor=32, min_pixels=low, max_pixels=high)
                    rows.append((height, width, low, high, *size))
    return rows


def write(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes one file of references, with the versions that they come from."""
    versions = {
        "transformers_version": np.array(transformers.__version__),
        "torch_version": np.array(torch.__version__),
    }
    path = DATA / name
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **versions, **arrays)
    print(f"{path}: {path.stat().st_size} bytes, transformers {transformers.__version__}")


def main() -> None:
    """Makes all cases and writes the files."""
    torch.set_num_threads(1)
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in MODEL_CASES:
            arrays |= case_arrays(case, Path(folder) / case.name)
    write("qwen3_vl_references.npz", arrays)
    write("image_processor_references.npz", image_arrays())


if __name__ == "__main__":
    main()

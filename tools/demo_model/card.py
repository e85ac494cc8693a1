"""Writes the demo checkpoint's model card and its learning curve (which needs matplotlib).

    python -m tools.demo_model.card --exam exam.json --exam-8-bit exam8.json --curves curve.jsonl ...

The exams are evaluate.py's --json files; the curves are train.py's, one for each call of the run, in order.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tools.demo_model.evaluate import markdown
from tools.demo_model.pages import LEVELS

CARD = """\
---
license: mit
pipeline_tag: image-to-text
---

# The demo checkpoint of mlx-chandra

A very small model (14 million parameters) of Chandra 1's architecture, Qwen3-VL, trained from scratch on
pages that the project draws itself. **It is for trying the pipeline and for tests, not for real documents.**
It reads clean printed English: lines 14 to 26 pixels high, 1 to 40 of them, in Liberation and DejaVu faces,
on pages from about 192x64 to 1024x1024 pixels. It knows no handwriting, no columns, no pictures, no formulas,
and no other language, and it will make up text where it sees something else.

It answers Chandra 2's two prompts (`ocr_layout`: a div with data-bbox 0-1000 and data-label around every
block; `ocr`: the HTML alone) and "OCR this image to HTML." The folder has Hugging Face's layout and opens in
transformers (Qwen3VLForConditionalGeneration), in mlx-vlm and in mlx_chandra.

## What was measured

Character error rate in percent, tags stripped and white space collapsed, greedy; in brackets the worst page.
{pages} freshly drawn pages whose prose comes from works that no training page had;
read through mlx_chandra in float32 on a CPU.
"Tags" is the error rate of the tags' names in percent, "boxes" the mean intersection over union of the
blocks' boxes. "Worn" is grey paper, grey noise (standard deviation 12 of 255), half a degree of slant and
JPEG at quality 60.

{table}

{eight_bit}## How it was made

Trained for {seconds:.0f} seconds on {gpu}: {steps:,} steps, {drawn:,} pages, in {calls} call(s).{note}
`tools/demo_model/` has all of it: the page renderer, the training (next-token loss and two helping losses,
Muon and Adam, a curriculum of five page sizes, averaged weights), the export and the measuring.

![Learning curve](curve.svg)
"""

SECONDS_PER_POINT = 6.0  # of the curve

EIGHT_BIT = """\
After quantisation to 8 bits (groups of 64):

{table}

"""


def last_lines(curves: list[Path]) -> list[dict[str, Any]]:
    """Read the last line of each curve, which has its totals."""
    return [json.loads(file.read_text(encoding="utf-8").splitlines()[-1]) for file in curves]


def card(options: argparse.Namespace) -> str:
    """Return the card's text."""
    exam = json.loads(options.exam.read_text(encoding="utf-8"))
    eight_bit = ""
    if options.exam_8_bit:
        rows = json.loads(options.exam_8_bit.read_text(encoding="utf-8"))["rows"]
        eight_bit = EIGHT_BIT.format(table=markdown(rows))
    ends = last_lines(options.curves)
    return CARD.format(
        pages=sum(row["pages"] for row in exam["rows"] if row["level"] == "all"),
        table=markdown(exam["rows"]),
        eight_bit=eight_bit,
        seconds=options.seconds or ends[-1]["seconds"],
        gpu=options.gpu,
        steps=sum(end["steps"] for end in ends),
        drawn=sum(end["pages"] for end in ends),
        calls=len(ends),
        note=options.note,
    )


def read_levels(curves: list[Path]) -> dict[int, dict[float, float]]:
    """Return each level's mean next-token loss by seconds of training, over all calls of the run."""
    sums: dict[tuple[int, float], list[float]] = {}
    for file in curves:
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            seconds = (row["seconds"] // SECONDS_PER_POINT + 0.5) * SECONDS_PER_POINT
            for level, values in row["levels"].items():
                total = sums.setdefault((int(level), seconds), [0.0, 0.0])
                total[0] += values["steps"] * values["reading"]
                total[1] += values["steps"]
    levels: dict[int, dict[float, float]] = {}
    for (level, seconds), (loss, steps) in sorted(sums.items()):
        levels.setdefault(level, {})[seconds] = loss / steps
    return levels


def draw_curve(levels: dict[int, dict[float, float]], output: Path) -> None:
    """Draw one line per level, on a logarithmic scale, as SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "curve"})
    figure, axis = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for level, points in levels.items():
        axis.semilogy(list(points), list(points.values()), label=LEVELS[level].name, linewidth=1)
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("next-token loss (nats)")
    axis.legend()
    figure.savefig(output, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo checkpoint's model card.")
    parser.add_argument("--exam", type=Path, required=True)
    parser.add_argument("--exam-8-bit", type=Path)
    parser.add_argument("--curves", type=Path, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, default=Path("src/mlx_chandra/demo/checkpoint"))
    parser.add_argument("--gpu", default="one NVIDIA H100 (80 GB)")
    parser.add_argument(
        "--seconds", type=float, help="of training, where the curves do not add up by themselves"
    )
    parser.add_argument("--note", default="", help="a sentence on anything unusual about the run")
    options = parser.parse_args()
    (options.folder / "README.md").write_text(card(options), encoding="utf-8")
    draw_curve(read_levels(options.curves), options.folder / "curve.svg")


if __name__ == "__main__":
    main()

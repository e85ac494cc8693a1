"""Measures the demo checkpoint: character error rate per kind of page and per level, as a Markdown table
and JSON.

    python -m tools.demo_model.evaluate --pages 12                      # through mlx_chandra, on this machine
    python -m tools.demo_model.evaluate --engine torch --weights average-*.safetensors --pages 60

--bits 8 measures after quantisation (MLX's own with mlx; the same arithmetic with torch).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tools.demo_model.exam import PAPERS, Question, draw_exam
from tools.demo_model.pages import LEVELS
from tools.demo_model.score import PageScore, Summary, score_page, summarise

Reader = Callable[[Sequence[Question]], list[str]]


def mlx_reader(options: argparse.Namespace) -> Reader:
    """Reads through mlx_chandra.batch_generate, in float32 on a CPU."""
    from mlx_chandra import batch_generate, load

    texts = json.loads((options.data / "prompts.json").read_text(encoding="utf-8"))
    model, processor = load(str(options.checkpoint))
    if options.bits:
        import mlx.nn as nn

        nn.quantize(model, group_size=64, bits=options.bits)
    longest = max(level.max_answer_tokens for level in LEVELS)

    def read(questions: Sequence[Question]) -> list[str]:
        images = [question.image.convert("RGB") for question in questions]
        prompts = [texts[PAPERS[question.paper].prompt.name.lower()] for question in questions]
        return list(
            batch_generate(model, processor, images=images, prompts=prompts, max_tokens=longest).texts
        )

    return read


def torch_reader(options: argparse.Namespace) -> Reader:
    """Reads with the training model, from the averaged weights that training wrote or from the exported
    folder."""
    import torch

    from tools.demo_model.torch_reader import TorchReader

    dtype = getattr(torch, options.dtype)
    weights = options.weights or [options.checkpoint / "model.safetensors"]
    reader = TorchReader.from_files(weights, options.checkpoint, options.data, options.bits, dtype)
    return reader.read


def table(questions: Sequence[Question], scores: Sequence[PageScore]) -> list[dict[str, object]]:
    """One row per paper and level, and one per paper."""
    rows: list[dict[str, object]] = []
    for number, paper in enumerate(PAPERS):
        for level in (*range(len(LEVELS)), None):
            chosen = [
                score
                for question, score in zip(questions, scores, strict=True)
                if question.paper == number and level in (None, question.level)
            ]
            if chosen:
                name = "all" if level is None else LEVELS[level].name
                rows.append({"paper": paper.name, "level": name, **asdict(summarise(chosen))})
    return rows


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """The rows as a table: character error rate (worst page) in percent; pages, tags, boxes of all sizes."""
    columns = [level.name for level in LEVELS] + ["all"]
    cells = {(str(row["paper"]), str(row["level"])): row for row in rows}
    heads = ["pages of", *columns, "above 5 %", "tags", "boxes"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for paper in dict.fromkeys(str(row["paper"]) for row in rows):
        shown = []
        for column in columns:
            row = cells.get((paper, column))
            shown.append(
                f"{100 * float(str(row['rate'])):.2f} ({100 * float(str(row['worst'])):.1f})" if row else ""
            )
        whole = cells[paper, "all"]
        boxes = "" if whole["overlap"] is None else f"{float(str(whole['overlap'])):.2f}"
        shown += [
            f"{whole['above_five_percent']} of {whole['pages']}",
            f"{100 * float(str(whole['tag_rate'])):.2f}",
            boxes,
        ]
        lines.append(f"| {paper} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def worst_pages(
    questions: Sequence[Question], answers: Sequence[str], scores: Sequence[PageScore], count: int
) -> list[dict[str, object]]:
    """What went wrong where it went worst."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place].rate)[:count]
    return [
        {
            "paper": PAPERS[questions[place].paper].name,
            "size": list(questions[place].image.size),
            "rate": round(scores[place].rate, 4),
            "truth": questions[place].truth,
            "answer": answers[place],
        }
        for place in order
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the demo checkpoint.")
    parser.add_argument("--engine", choices=("mlx", "torch"), default="mlx")
    parser.add_argument("--checkpoint", type=Path, default=Path("src/mlx_chandra/demo/checkpoint"))
    parser.add_argument("--weights", type=Path, nargs="*", default=(), help="averaged weights (torch engine)")
    parser.add_argument("--data", type=Path, default=Path("tools/demo_model/.data"))
    parser.add_argument("--pages", type=int, default=12, help="per paper and level")
    parser.add_argument("--papers", type=int, nargs="*", default=range(len(PAPERS)))
    parser.add_argument("--levels", type=int, nargs="*", default=range(len(LEVELS)))
    parser.add_argument("--bits", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="torch engine's")
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for all numbers and the worst pages")
    return parser.parse_args()


def main() -> None:
    """Draws the exam, reads it, prints the table."""
    options = arguments()
    questions = draw_exam(
        options.data, options.pages, options.papers, options.levels, options.seed, options.workers
    )
    read = mlx_reader(options) if options.engine == "mlx" else torch_reader(options)
    start = time.perf_counter()
    answers = read(questions)
    seconds = time.perf_counter() - start
    scores = [score_page(answer, question.truth) for answer, question in zip(answers, questions, strict=True)]
    rows = table(questions, scores)
    print(markdown(rows))
    overall: Summary = summarise(scores)
    print(f"{overall.pages} pages in {seconds:.0f} s, {100 * overall.rate:.3f} % of characters wrong")
    if options.json:
        found = {"rows": rows, "worst": worst_pages(questions, answers, scores, 12), "seconds": seconds}
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

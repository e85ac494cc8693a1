"""Measures the demo checkpoint through mlx_chandra: character error rate per kind of page and per level.

    python -m tools.demo_model.evaluate --pages 12 --json exam.json

Prints a Markdown table. --bits 8 measures after quantisation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tools.demo_model.exam import PAPERS, Question, draw_exam
from tools.demo_model.pages import LEVELS
from tools.demo_model.score import PageScore, score_page, summarise


def read(questions: Sequence[Question], checkpoint: Path, data: Path, bits: int) -> list[str]:
    """Read the exam's pages through mlx_chandra.batch_generate, in float32 on a CPU."""
    from mlx_chandra import batch_generate, load

    texts = json.loads((data / "prompts.json").read_text(encoding="utf-8"))
    model, processor = load(str(checkpoint))
    if bits:
        import mlx.nn as nn

        nn.quantize(model, group_size=64, bits=bits)
    images = [question.image.convert("RGB") for question in questions]
    prompts = [texts[PAPERS[question.paper].prompt.name.lower()] for question in questions]
    longest = max(level.max_answer_tokens for level in LEVELS)
    answers = batch_generate(model, processor, images=images, prompts=prompts, max_tokens=longest)
    return list(answers.texts)


def table(questions: Sequence[Question], scores: Sequence[PageScore]) -> list[dict[str, object]]:
    """Return one row per paper and level, and one per paper."""
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
    """Format rows as a table: character error rate (worst page) in percent, and totals of all levels."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the demo checkpoint.")
    add = parser.add_argument
    add("--checkpoint", type=Path, default=Path("src/mlx_chandra/demo/checkpoint"))
    add("--data", type=Path, default=Path("tools/demo_model/.data"))
    add("--pages", type=int, default=12, help="per paper and level")
    add("--papers", type=int, nargs="*", default=range(len(PAPERS)))
    add("--levels", type=int, nargs="*", default=range(len(LEVELS)))
    add("--bits", type=int, default=0)
    add("--seed", type=int, default=2025)
    add("--json", type=Path, help="file for the table's rows")
    options = parser.parse_args()
    questions = draw_exam(options.data, options.pages, options.papers, options.levels, options.seed)
    start = time.perf_counter()
    answers = read(questions, options.checkpoint, options.data, options.bits)
    seconds = time.perf_counter() - start
    scores = [score_page(answer, question.truth) for answer, question in zip(answers, questions, strict=True)]
    rows = table(questions, scores)
    print(markdown(rows))
    print(f"{len(scores)} pages in {seconds:.0f} s, {100 * summarise(scores).rate:.3f} % of characters wrong")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "seconds": seconds}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Draws the learning curve of a training run as an SVG for the model card; no library needed.

    python -m tools.demo_model.curve runs/demo/curve.jsonl --output src/mlx_chandra/demo/checkpoint/curve.svg

One line per level: the next-token loss of its batches over the run's seconds, on a logarithmic scale.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 56, 110, 24, 44
LOWEST, HIGHEST = 0.005, 5.0
COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677")
SECONDS_PER_POINT = 6.0
STEPS, MOST_NUMBERS = (60, 120, 300, 600, 1200, 3600), 12  # of the numbers below


@dataclass(frozen=True)
class Point:
    """A level's mean loss over a few seconds."""

    seconds: float
    loss: float


def read_levels(files: Sequence[Path]) -> list[list[Point]]:
    """The points of each level, over all calls that made up the run."""
    sums: dict[tuple[int, int], tuple[float, float]] = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for level, values in row["levels"].items():
                key = (int(level), int(row["seconds"] // SECONDS_PER_POINT))
                steps, total = sums.get(key, (0.0, 0.0))
                sums[key] = (steps + values["steps"], total + values["steps"] * values["reading"])
    levels = range(1 + max(level for level, _ in sums))
    return [
        [
            Point((slot + 0.5) * SECONDS_PER_POINT, total / steps)
            for (own, slot), (steps, total) in sorted(sums.items())
            if own == level
        ]
        for level in levels
    ]


def across(seconds: float, longest: float) -> float:
    """Pixels from the left."""
    return LEFT + (WIDTH - LEFT - RIGHT) * seconds / longest


def down(loss: float) -> float:
    """Pixels from the top."""
    share = math.log(HIGHEST / min(max(loss, LOWEST), HIGHEST)) / math.log(HIGHEST / LOWEST)
    return TOP + (HEIGHT - TOP - BOTTOM) * share


def axes(longest: float) -> list[str]:
    """Lines and numbers of both axes."""
    parts = []
    for loss in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5):
        y = down(loss)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>')
    step = next((step for step in STEPS if longest < MOST_NUMBERS * step), STEPS[-1])
    for seconds in range(0, int(longest) + 1, step):
        x = across(seconds, longest)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{seconds}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">seconds of training</text>')
    parts.append(f'<text x="{LEFT}" y="14">next-token loss (nats), pages of each level</text>')
    return parts


def svg(levels: Sequence[Sequence[Point]], names: Sequence[str]) -> str:
    """The whole picture."""
    longest = max(point.seconds for points in levels for point in points)
    parts = axes(longest)
    for number, (points, name) in enumerate(zip(levels, names, strict=True)):
        places = " ".join(f"{across(p.seconds, longest):.1f},{down(p.loss):.1f}" for p in points)
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{COLOURS[number]}" stroke-width="1.5"/>'
        )
        y = TOP + 16 + 18 * number
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{y}" fill="{COLOURS[number]}">{name}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>", ""])


def main() -> None:
    """The command line."""
    from tools.demo_model.pages import LEVELS

    parser = argparse.ArgumentParser(description="Draw a run's learning curve.")
    parser.add_argument("curves", nargs="+", type=Path, help="curve.jsonl of each call of the run, in order")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    levels = read_levels(options.curves)
    options.output.write_text(svg(levels, [level.name for level in LEVELS[: len(levels)]]), encoding="utf-8")


if __name__ == "__main__":
    main()

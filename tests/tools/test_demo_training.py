"""The parts of the demo checkpoint's training that need no torch: curriculum, scoring, prompts, the exam's
tables."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from tools.demo_model.card import draw_curve, read_levels
from tools.demo_model.curriculum import FINAL_MIX, Curriculum, average_keep, rate, rough_share
from tools.demo_model.evaluate import markdown, table
from tools.demo_model.exam import PAPERS, Question
from tools.demo_model.prompts import PromptKind, PromptTokens
from tools.demo_model.score import edit_distance, plain_text, score_page, summarise

TOKENIZER = Path(__file__).parents[2] / "src/mlx_chandra/demo/checkpoint"


def slow_distance(ours: str, theirs: str) -> int:
    """Levenshtein's recursion, row by row, as in the textbook."""
    row = list(range(len(theirs) + 1))
    for number, a in enumerate(ours, start=1):
        last, row = row, [number]
        for place, b in enumerate(theirs, start=1):
            row.append(min(last[place] + 1, row[-1] + 1, last[place - 1] + (a != b)))
    return row[-1]


def test_the_fast_edit_distance_agrees_with_the_textbooks_on_random_strings() -> None:
    dice = random.Random(4)
    for _ in range(200):
        ours, theirs = ("".join(dice.choices("abé ", k=dice.randint(0, 14))) for _ in range(2))
        assert edit_distance(ours, theirs) == slow_distance(ours, theirs)


def test_scoring_ignores_tags_entities_and_line_breaks_but_not_a_wrong_letter() -> None:
    truth = "<h1>Fish &amp; Chips</h1><p>two\n pounds</p>"
    assert plain_text(truth) == "Fish & Chips two pounds"
    assert score_page('<div data-bbox="1 2 3 4"><h2>Fish & Chips</h2></div> two pounds', truth).edits == 0
    assert score_page("<h1>Fish &amp; Chops</h1><p>two pounds</p>", truth).edits == 1


def test_a_summary_weighs_pages_by_their_characters_and_names_the_worst() -> None:
    scores = [score_page("abcdefghij" * 9, "abcdefghij" * 9), score_page("xbcdefghiy", "abcdefghij")]
    summary = summarise(scores)
    assert summary.rate == pytest.approx(0.02)
    assert summary.worst == pytest.approx(0.2)
    assert summary.above_five_percent == 1


def test_tags_and_boxes_are_scored_apart_from_the_characters() -> None:
    box = '<div data-bbox="{}" data-label="Table"><table><tr><th></th><th>Mon</th></tr></table></div>'
    truth = box.format("0 0 100 100")
    cell_missing = truth.replace("<th></th>", "")
    half_off = score_page(box.format("0 50 100 100"), truth)
    assert (half_off.edits, half_off.tag_edits, half_off.tags) == (0, 0, 10)
    assert half_off.overlap == pytest.approx(0.5)
    assert score_page(cell_missing, truth).tag_edits == 2
    assert score_page(cell_missing, truth).edits == 0
    twice = score_page(truth + truth, truth)
    assert (twice.overlap, twice.boxes) == (1.0, 2)
    summary = summarise([half_off, twice])
    assert summary.overlap == pytest.approx(1.5 / 3)
    assert summarise([score_page("<p>a</p>", "<p>a</p>")]).overlap is None


def test_a_level_unlocks_only_when_the_newest_one_is_read_well() -> None:
    curriculum = Curriculum(levels=5)
    assert curriculum.mix() == (1.0, 0.0, 0.0, 0.0, 0.0)
    for _ in range(20):
        curriculum.observe(0, 0.5)
    assert curriculum.unlocked == 1
    while not curriculum.observe(0, 0.99):
        pass
    assert curriculum.unlocked == 2
    for _ in range(20):
        curriculum.observe(0, 0.99)
    assert curriculum.unlocked == 2, "the older level says nothing about the newest"


@pytest.mark.parametrize("unlocked", [1, 2, 3, 4, 5])
def test_every_unlocked_level_stays_in_the_mix_and_no_locked_one_is_drawn(unlocked: int) -> None:
    mix = Curriculum(levels=5, unlocked=unlocked).mix()
    assert sum(mix) == pytest.approx(1)
    assert all(share > 0 for share in mix[:unlocked])
    assert not any(mix[unlocked:])
    if unlocked == 5:
        assert mix == FINAL_MIX


def test_a_curriculum_that_was_saved_goes_on_where_it_was() -> None:
    curriculum = Curriculum(levels=3)
    while not curriculum.observe(0, 1.0):
        pass
    assert Curriculum(**json.loads(json.dumps(asdict(curriculum)))) == curriculum


def test_rates_rise_then_fall_to_nothing_at_the_end_and_scans_get_worse_only_later() -> None:
    assert rate(0, 0.0) < rate(50, 0.0) < rate(5000, 0.2) == 1.0
    assert rate(5000, 0.8) > rate(5000, 0.9) > rate(5000, 1.0) == 0.0
    assert rough_share(0.0) == 0.0 < rough_share(1.0)
    assert average_keep(0) < average_keep(100) < average_keep(1_000_000) < 1.0


def test_the_real_prompts_surround_the_page_as_the_chat_template_does(tmp_path: Path) -> None:
    texts = {kind.name.lower(): f"Read this, kind {kind.value}." for kind in PromptKind}
    (tmp_path / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
    tokens = PromptTokens.from_folder(TOKENIZER, tmp_path)

    from mlx_chandra.processing.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(TOKENIZER)
    image = tokenizer.token_id("<|image_pad|>")
    for kind in PromptKind:
        content = [{"type": "image"}, {"type": "text", "text": texts[kind.name.lower()]}]
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": content}])
        assert [*tokens.lead, image, *tokens.after[kind]] == tokenizer.encode(rendered)
    assert tokens.stop == tokenizer.token_id("<|im_end|>")


def test_tokens_that_begin_and_end_a_box_are_marked_and_no_others(tmp_path: Path) -> None:
    texts = {kind.name.lower(): "x" for kind in PromptKind}
    (tmp_path / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
    tokens = PromptTokens.from_folder(TOKENIZER, tmp_path)

    from mlx_chandra.processing.tokenizer import Tokenizer

    ids = Tokenizer.from_folder(TOKENIZER).encode(
        '<div data-bbox="1 2 33 44" data-label="Text"><p>a</p></div>'
    )
    inside, depth = 0, 0
    for number in ids:
        depth += tokens.marks[number]
        inside += depth > 0 and tokens.marks[number] == 0
    assert depth == 0
    assert inside == len("1 2 33 44")


def test_the_evaluations_table_shows_rate_and_worst_page_of_each_level() -> None:
    picture = Image.new("L", (64, 64))
    questions = [
        Question(0, 0, picture, "abcd"),
        Question(0, 4, picture, "abcdefgh"),
        Question(3, 0, picture, "ab"),
    ]
    answers = ["abcd", "abcdefgX", ""]
    scores = [score_page(answer, question.truth) for answer, question in zip(answers, questions, strict=True)]
    text = markdown(table(questions, scores))
    assert f"| {PAPERS[0].name} | 0.00 (0.0) |  |  |  | 12.50 (12.5) | 8.33 (12.5) | 1 of 2 |" in text
    assert f"| {PAPERS[3].name} | 100.00 (100.0) |" in text


def test_the_curve_has_each_levels_mean_loss_over_all_calls_of_the_run(tmp_path: Path) -> None:
    def row(seconds: float, level: int, steps: int, reading: float) -> str:
        return json.dumps({"seconds": seconds, "levels": {level: {"steps": steps, "reading": reading}}})

    calls = [tmp_path / name for name in ("first.jsonl", "second.jsonl")]
    calls[0].write_text(f"{row(1, 0, 50, 2.0)}\n{row(5, 0, 150, 1.0)}\n", encoding="utf-8")
    calls[1].write_text(f"{row(7, 0, 50, 0.5)}\n{row(8, 1, 50, 3.0)}\n", encoding="utf-8")
    levels = read_levels(calls)
    assert levels == {0: {3.0: 1.25, 9.0: 0.5}, 1: {9.0: 3.0}}
    pytest.importorskip("matplotlib")
    draw_curve(levels, tmp_path / "curve.svg")
    assert "seconds of training" in (tmp_path / "curve.svg").read_text(encoding="utf-8")

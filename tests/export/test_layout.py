"""Answers of both models are brought into the form that the authors' package reads, and nothing is lost."""

import subprocess
import sys
import time

import pytest

from mlx_chandra.export.layout import Box, blocks_of, read_answer
from tests.cli.program import environment

SIZE = (200, 400)


def block(box: str, inside: str = "<p>x</p>", label: str = "Text") -> str:
    return f'<div data-bbox="{box}" data-label="{label}">{inside}</div>'


def test_chandra_2s_boxes_are_thousandths_and_its_answer_is_handed_on_letter_for_letter() -> None:
    text = "\n".join([block("100 250 500 1000"), block("0 0 10 10", label="Blank-Page"), block("5 5 9 9")])
    answer = read_answer(text, 1000)
    assert answer.html == text
    first, second = blocks_of(answer, SIZE)
    assert (first.label, first.content) == ("Text", "<p>x</p>")
    assert first.bbox == Box(20, 100, 100, 400)
    assert first.bbox_fractions == Box(0.1, 0.25, 0.5, 1.0)
    assert second.bbox_fractions == Box(0.005, 0.005, 0.009, 0.009)


def test_chandra_1s_boxes_are_1024ths_in_brackets() -> None:
    answer = read_answer(block("[256, 512, 1024, 768]"), 1024)
    (found,) = blocks_of(answer, SIZE)
    assert found.bbox == Box(50, 200, 200, 300)
    assert found.bbox_fractions == Box(0.25, 0.5, 1.0, 0.75)


@pytest.mark.parametrize(("box", "scale"), [("[1, 2, 3, 4]", 1024), ("1 2 3 4", 1000), ("", 1000)])
def test_an_unknown_models_boxes_are_told_by_their_form(box: str, scale: int) -> None:
    assert read_answer(block(box), None).scale == scale


@pytest.mark.parametrize("said", ["1,2,3,4", "1.2  2.0 3 4", "[1 2 3 4]", " 1 2 3 4 "])
def test_a_box_in_a_form_of_its_own_is_still_read(said: str) -> None:
    (found,) = blocks_of(read_answer(block(said), 1000), (1000, 1000))
    assert found.bbox == Box(1, 2, 3, 4)


@pytest.mark.parametrize("said", ["", "1 2 3", "left top", "1 2 3 4 5"])
def test_a_block_without_a_readable_box_stays_and_says_so(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = blocks_of(read_answer(block(said), 1000), SIZE)
    assert (found.bbox, found.bbox_fractions, found.content) == (None, None, "<p>x</p>")
    assert capsys.readouterr().out == ""  # the package would print


def test_what_stands_outside_of_all_blocks_is_a_block_too() -> None:
    answer = read_answer(f"before <b>it</b> {block('1 2 3 4')}<p>after</p>", None)
    assert [(b.label, b.content) for b in blocks_of(answer, SIZE)] == [
        ("block", "before <b>it</b> "), ("Text", "<p>x</p>"), ("block", "<p>after</p>"),
    ]  # fmt: skip


def test_a_page_of_unknown_size_has_fractions_alone() -> None:
    (found,) = blocks_of(read_answer(block("100 200 300 400"), None), None)
    assert (found.bbox, found.bbox_fractions) == (None, Box(0.1, 0.2, 0.3, 0.4))


def test_boxes_beyond_the_page_end_at_its_edges() -> None:
    (found,) = blocks_of(read_answer(block("-5 0 1200 500"), 1000), SIZE)
    assert found.bbox == Box(0, 0, 200, 200)
    assert found.bbox_fractions == Box(0, 0, 1, 0.5)


@pytest.mark.parametrize("number", ["99999999999", "9" * 320, "-" + "9" * 5000, "1" * 40 + ".5"])
def test_a_box_with_a_long_number_ends_at_the_pages_edge(number: str) -> None:
    (found,) = blocks_of(read_answer(block(f"{number} 0 500 {number}"), 1000), SIZE)
    edge = 0.0 if number.startswith("-") else 1.0
    assert found.bbox_fractions == Box(edge, 0, 0.5, edge)
    assert found.bbox == Box(edge * 200, 0, 100, edge * 400)


def test_white_space_in_a_box_takes_no_time() -> None:
    began = time.process_time()
    for box in (" " * 100_000, "1 2 3" + " " * 100_000 + "x", '" data-bbox=' + " " * 100_000):
        read_answer(block(box), None)
    assert time.process_time() - began < 2


def test_the_package_is_used_without_torch_and_without_a_client_for_servers() -> None:
    code = (
        "import sys\nfrom mlx_chandra.export.layout import package\npackage()\n"
        "print([m for m in ('torch', 'transformers', 'openai', 'mlx') if m in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert finished.stdout == "[]\n", finished.stderr

"""The page renderer of the demo checkpoint, with a typeface that comes with PIL in place of the real ones."""

import hashlib
import html
import io
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont
from tokenizers import Tokenizer

from tools.demo_model import composing
from tools.demo_model.batches import (
    SHORT_SHARE,
    Packer,
    characters_by_patch,
    draw_prompt,
    token_points,
)
from tools.demo_model.blocks import Room, set_list, set_paragraph
from tools.demo_model.composing import Level, Studio
from tools.demo_model.examples import EXAMPLES, TEXTS, Example, Part, parse
from tools.demo_model.fetch_data import is_prose, paragraphs, sentence_keys
from tools.demo_model.glyphs import FACES, Atlas
from tools.demo_model.pages import LEVELS, RenderedPage, Wear, degrade, draw_page, finish_page
from tools.demo_model.prompts import PromptKind
from tools.demo_model.text import (
    ALIKE,
    ALPHABET,
    LIKE,
    QUOTE_MARKS,
    SWAPPED,
    TextKind,
    TextMix,
    TextSource,
)
from tools.demo_model.typesetting import Sheet, Style, break_lines, measure, shorten_words

ROOT = Path(__file__).parents[2]
PROSE = (
    "The harbour was quiet, and the boats lay side by side -- all of them grey.",
    'She said: "We sail at nine & not a minute later", but nobody moved.',
    "Forty turns of the key, every Sunday after church; be gentle with her.",
)
WORDS = ["apple", "boat's", "café", "dinner", "élan", "fish", "grey", "X-ray", "zone"]
MOST_PIXELS_OUTSIDE = 3


@pytest.fixture(scope="module")
def studio() -> Studio:
    font = ImageFont.load_default(20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert isinstance(font.path, io.BytesIO)
    atlas = Atlas(dict.fromkeys(FACES, font.path.getvalue()))
    return Studio(atlas, TextSource.from_texts(list(PROSE), WORDS, " ".join(PROSE), TextMix()))


@pytest.fixture(scope="module")
def style(studio: Studio) -> Style:
    return Style(studio.atlas.glyphs(FACES[0], 16, True), 20.0)


def draw(studio: Studio, seed: int, level: int, size: tuple[int, int], warped: bool = True) -> RenderedPage:
    return draw_page(np.random.default_rng(seed), LEVELS[level], size, studio, warped=warped)


CASES = [(0, (64, 192)), (1, (160, 256)), (2, (384, 512)), (2, (512, 512)), (3, (480, 640)), (4, (1024, 768))]


@pytest.mark.parametrize(("level", "size"), CASES)
def test_the_same_seed_gives_the_same_page(studio: Studio, level: int, size: tuple[int, int]) -> None:
    first, again, other = (draw(studio, seed, level, size) for seed in (5, 5, 6))
    assert first.ink.shape == size
    assert np.array_equal(first.ink, again.ink)
    assert first.layout_html == again.layout_html
    assert not np.array_equal(first.ink, other.ink)


@pytest.mark.parametrize(("level", "size"), CASES)
@pytest.mark.parametrize("seed", range(6))
def test_all_ink_of_a_page_lies_in_its_blocks_boxes(
    studio: Studio, level: int, size: tuple[int, int], seed: int
) -> None:
    page = draw(studio, seed, level, size)
    rest = page.ink.copy()
    for block in page.blocks:
        x0, y0, x1, y1 = block.box
        assert 0 <= x0 < x1 <= size[1]
        assert 0 <= y0 < y1 <= size[0]
        room = MOST_PIXELS_OUTSIDE
        assert page.ink[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1].max() > 100
        rest[max(0, int(y0) - room) : int(y1) + room + 1, max(0, int(x0) - room) : int(x1) + room + 1] = 0
    assert rest.max() < 40


@pytest.mark.parametrize(("level", "size"), CASES)
@pytest.mark.parametrize("seed", range(4))
def test_answers_say_what_is_printed_in_reading_order(
    studio: Studio, level: int, size: tuple[int, int], seed: int
) -> None:
    page = draw(studio, seed, level, size)
    words = " ".join(block.text for block in page.blocks).split()
    for answer in (page.html, page.layout_html):
        assert html.unescape(re.sub(r"<[^>]*>", " ", answer)).split() == words
    printed = "".join(ALPHABET[index] for index in page.chars)
    assert is_subsequence("".join(words), printed)
    bullets = len(printed) - len("".join(words))
    assert bullets <= page.html.count("<li>")


def is_subsequence(part: str, whole: str) -> bool:
    rest = iter(whole)
    return all(character in rest for character in part)


@pytest.mark.parametrize("layout", [False, True])
def test_each_letter_of_an_answer_is_at_its_own_place(studio: Studio, layout: bool) -> None:
    page = draw(studio, 11, 3, (480, 640))
    answer, points = (page.layout_html, page.layout_xy) if layout else (page.html, page.html_xy)
    assert len(points) == len(answer)
    centres = {tuple(centre): ALPHABET[index] for centre, index in zip(page.centres, page.chars, strict=True)}
    places = [m.span() for m in re.finditer(r"<[^>]*>|&\w+;| ", answer)]
    outside = np.ones(len(answer), bool)
    for start, end in places:
        outside[start:end] = False
    found = [(character, centres.get(tuple(point))) for character, point in zip(answer, points, strict=True)]
    letters = [pair for pair, kept in zip(found, outside, strict=True) if kept]
    assert letters
    assert all(character == printed for character, printed in letters)


def test_an_escaped_character_is_where_it_is_printed(studio: Studio, style: Style) -> None:
    sheet = Sheet(100, 400)
    block = set_paragraph(sheet, "a < b & c", Room(10, 10, 380, 5), style)
    assert block.html == "<p>a &lt; b &amp; c</p>"
    at = block.html.index("&lt;")
    assert len(np.unique(block.points[at : at + 4], axis=0)) == 1
    centres, chars = sheet.characters()
    assert tuple(block.points[at]) in {tuple(centre) for centre in centres[chars == ALPHABET.index("<")]}


def test_layout_boxes_are_thousandths_of_the_page(studio: Studio) -> None:
    page = draw(studio, 3, 2, (384, 512))
    boxes = re.findall(r'<div data-bbox="(\d+) (\d+) (\d+) (\d+)" data-label="([\w-]+)">', page.layout_html)
    assert len(boxes) == len(page.blocks)
    for found, block in zip(boxes, page.blocks, strict=True):
        scaled = np.array([int(number) for number in found[:4]]) * np.array([512, 384, 512, 384]) / 1000
        assert np.abs(scaled - np.array(block.box)).max() <= 0.26 + 1e-6
        assert found[4] == block.label


@pytest.mark.parametrize(("shape", "slant"), [((200, 300), 0.7), ((180, 330), 0.0), ((230, 280), -0.5)])
def test_points_move_with_the_ink_when_a_page_is_scaled_or_slanted(
    style: Style, shape: tuple[int, int], slant: float
) -> None:
    sheet = Sheet(*shape)
    text = "HHHH HHHH HHHH"
    block = set_paragraph(sheet, text, Room(40, 60, 200, 5), style)
    page = finish_page(sheet, [block], (200, 300), slant)
    for x, y in page.centres:
        around = page.ink[int(y) - 5 : int(y) + 7, int(x) - 8 : int(x) + 9].astype(float)
        columns = np.arange(int(x) - 8, int(x) + 9) + 0.5
        inked = around * (np.abs(columns - x) < 6.5)
        assert abs((inked.sum(0) * columns).sum() / inked.sum() - x) < 1.0
    x0, y0, x1, y1 = page.blocks[0].box
    assert x0 < page.centres[:, 0].min() <= page.centres[:, 0].max() < x1
    assert y0 < page.centres[:, 1].min() <= page.centres[:, 1].max() < y1


def test_a_tag_is_where_what_follows_it_is(style: Style) -> None:
    sheet = Sheet(100, 300)
    block = set_paragraph(sheet, "word", Room(10, 10, 280, 2), style)
    page = finish_page(sheet, [block], (100, 300))
    assert np.array_equal(page.html_xy[0], page.html_xy[3])
    assert np.isnan(page.html_xy[-1]).all()


def test_lines_are_filled_with_whole_words(style: Style) -> None:
    measured = measure(PROSE[0], style)
    lines = break_lines(measured, 150)
    assert " ".join(measured.text[start:end] for start, end in lines) == PROSE[0]
    widths = [float(measured.pens[end] - measured.pens[start]) for start, end in lines]
    assert max(widths) <= 150.01
    spaces = [float(measured.pens[end + 1] - measured.pens[end]) for _, end in lines[:-1]]
    words = [measured.text[start:].split(" ")[0] for start, _ in lines[1:]]
    for width, space, word in zip(widths, spaces, words, strict=False):
        assert width + space + measure(word, style).width > 150 - 3


def test_a_word_wider_than_the_column_is_cut(style: Style) -> None:
    measured = shorten_words("a " + "m" * 90 + " b", style, 120)
    first, middle, last = measured.text.split(" ")
    assert (first, last) == ("a", "b")
    assert set(middle) == {"m"}
    assert measure(middle, style).width <= 120


def test_a_character_outside_the_alphabet_is_named(style: Style) -> None:
    with pytest.raises(ValueError, match="'ß' is not in the alphabet"):
        measure("Straße", style)


def test_text_that_does_not_fit_is_left_out_of_the_answer_too(style: Style) -> None:
    block = set_paragraph(Sheet(100, 200), " ".join(PROSE), Room(10, 10, 180, 2), style)
    assert block.lines == 2
    assert PROSE[0].startswith(block.text)
    assert block.html == f"<p>{block.text}</p>"


def test_list_items_hang_beside_their_bullets(style: Style) -> None:
    sheet = Sheet(200, 200)
    block = set_list(sheet, ["one", PROSE[0]], Room(20, 10, 160, 9), style)
    assert block.html.startswith("<ul><li>one</li><li>The harbour")
    centres, _ = sheet.characters()
    assert block.box[0] == 20
    assert centres[:, 0].min() > 20 + 0.5 * 16


def test_a_clean_page_is_black_on_white_and_wear_shows(studio: Studio) -> None:
    page = draw(studio, 2, 2, (384, 512))
    rng = np.random.default_rng(0)
    clean = np.asarray(degrade(page.ink, rng, Wear()))
    assert np.array_equal(clean, 255 - page.ink)
    worn = np.asarray(degrade(page.ink, rng, Wear(paper=230, ink=40, noise=4, jpeg_quality=60)))
    blank = page.ink == 0
    assert abs(worn[blank].mean() - 230) < 3
    assert 2 < worn[blank].std() < 8
    slanted = np.asarray(degrade(page.ink, rng, Wear(slant=0.5)))
    assert slanted.shape == clean.shape
    assert not np.array_equal(slanted, clean)


@pytest.mark.parametrize("kind", list(TextKind))
def test_text_of_every_kind_stays_in_the_alphabet(studio: Studio, kind: TextKind) -> None:
    dice = random.Random(4)
    text = " ".join(
        studio.text.passage(dice, kind, 30) + " " + studio.text.phrase(dice, kind, 3) for _ in range(60)
    )
    assert set(text) <= set(ALPHABET) | {" "}
    assert "  " not in text


def test_prose_passages_are_the_sources_own_sentences(studio: Studio) -> None:
    dice = random.Random(1)
    source = " ".join([*PROSE, *PROSE, *PROSE])
    plain = source.translate(str.maketrans("", "", "“”\"'’—–- "))
    for _ in range(20):
        passage = studio.text.passage(dice, TextKind.PROSE, 9)
        assert passage.translate(str.maketrans("", "", "“”\"'’—–- ")) in plain


def test_a_passage_with_an_echo_is_as_long_as_without_and_says_something_twice(studio: Studio) -> None:
    prose = " ".join(f"word{number}" for number in range(400))
    source = TextSource.from_texts([prose], WORDS, prose, TextMix(echo=1.0))
    repeated = 0
    for seed in range(40):
        words = source.passage(random.Random(seed), TextKind.PROSE, 60).split()
        assert len(words) == 60
        repeated += len(set(words)) < 60
    assert repeated > 20
    plain = replace(source, mix=TextMix())
    words = plain.passage(random.Random(3), TextKind.PROSE, 60).split()
    assert len(set(words)) == 60


def test_marked_passages_have_the_same_words_and_straight_and_curly_marks_alike_often(studio: Studio) -> None:
    prose = " ".join(f"it's word{number}" for number in range(400))
    full = TextSource.from_texts([prose], WORDS, prose, TextMix(marks=1.0))
    plain = replace(full, mix=TextMix())
    no_marks = str.maketrans("", "", QUOTE_MARKS)
    seen: Counter[str] = Counter()
    for seed in range(20):
        passages = [source.passage(random.Random(seed), TextKind.PROSE, 60) for source in (full, plain)]
        assert passages[0].translate(no_marks) == passages[1].translate(no_marks)
        seen.update(letter for letter in passages[0] if letter in QUOTE_MARKS)
    assert set(seen) == set(QUOTE_MARKS)
    assert 0.8 < seen["'"] / seen["’"] < 1.25
    assert seen.total() > 20 * 60 * 0.6


def test_swapped_passages_differ_only_where_characters_look_alike_and_there_often(studio: Studio) -> None:
    prose = " ".join(f"{word}, {number}" for number in range(200) for word in ("Still", "-you’ve"))
    full = TextSource.from_texts([prose], WORDS, prose, TextMix(alike=1.0))
    plain = replace(full, mix=TextMix())
    alike = swapped = 0
    for seed in range(20):
        passages = [source.passage(random.Random(seed), TextKind.PROSE, 60) for source in (full, plain)]
        for new, old in zip(*passages, strict=True):
            assert new in LIKE.get(old, old)
            alike += old in LIKE
            swapped += new != old
    assert 0.15 < swapped / alike < SWAPPED


def test_every_look_alike_is_in_one_group_and_on_the_pages_alphabet() -> None:
    assert Counter("".join(ALIKE)).most_common(1)[0][1] == 1
    assert set(LIKE) <= set(ALPHABET)


def test_the_exam_draws_the_same_random_strings_as_ever(studio: Studio) -> None:
    """Its seeds give the pages of the model card only as long as text is drawn in the same way."""
    text = studio.text.passage(random.Random(2025), TextKind.RANDOM, 400)
    text += studio.text.passage(random.Random(2025), TextKind.FIGURES, 400)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "473dd27829dd764c"


def test_crowded_pages_have_small_lines_close_together(studio: Studio) -> None:
    crowded = replace(studio, crowded=1.0)
    for seed in range(8):
        ys = draw(crowded, seed, 4, (1024, 768), warped=False).html_xy[:, 1]
        gaps = np.diff(np.unique(np.round(ys[np.isfinite(ys)])))
        assert gaps[gaps > 6].min() <= 16 * 1.2 + 1


def test_full_pages_have_narrow_margins_and_as_much_text_as_fits(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowded, size = replace(studio, crowded=1.0), (480, 640)

    def pages(share: float) -> list[RenderedPage]:
        monkeypatch.setattr(composing, "FULL_SHARE", share)
        return [draw(crowded, seed, 3, size, warped=False) for seed in range(24)]

    full, others = pages(1.0), pages(0.0)
    rightmost = [page.centres[:, 0].max() for page in full]
    assert np.median(rightmost) > 0.95 * size[1]
    assert sum(len(page.html) for page in full) > 1.05 * sum(len(page.html) for page in others)


@pytest.mark.parametrize(
    ("level", "prompt", "wanted"),
    [
        (LEVELS[1], PromptKind.OCR_LAYOUT, LEVELS[1].layout_share),
        (LEVELS[2], PromptKind.SHORT, SHORT_SHARE),
    ],
)
def test_small_pages_have_prompts_as_their_level_says_and_most_larger_ones_the_short_one(
    level: Level, prompt: PromptKind, wanted: float
) -> None:
    rng = np.random.default_rng(4)
    share = sum(draw_prompt(rng, level) is prompt for _ in range(4000)) / 4000
    assert share == pytest.approx(wanted, abs=0.03)


def test_pages_whose_answer_is_too_long_are_drawn_again(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.from_file(str(ROOT / "src/mlx_chandra/demo/checkpoint/tokenizer.json"))
    packer = Packer(studio, tokenizer, pixels=64 * 192 * 8)
    short = Level("short", ((64, 192),), 3, 0.5, False, 23)
    monkeypatch.setattr("tools.demo_model.batches.LEVELS", (short,))
    batch = packer.pack(np.random.default_rng(0), 0, (64, 192), PromptKind.OCR_LAYOUT)
    assert batch.answers.shape == (8, 23)
    assert batch.lengths.max() <= 23
    for row in range(8):
        length = int(batch.lengths[row])
        assert tokenizer.id_to_token(int(batch.answers[row, length - 1])) == "<|im_end|>"
        assert (batch.answers[row, length:] == packer.padding).all()
        answer = tokenizer.decode(batch.answers[row, : length - 1].tolist())
        assert re.fullmatch(r'<div data-bbox="[\d ]+" data-label="Text"><p>.*</div>', answer)
        assert np.isfinite(batch.places[row, : length - 4]).all()


def test_patches_come_in_merge_blocks_with_their_characters_from_left_to_right() -> None:
    centres = np.array([[40.0, 5.0], [20.0, 20.0], [18.0, 21.0], [3.0, 40.0], [999.0, 5.0]], np.float32)
    sorted_chars = characters_by_patch(centres, np.array([10, 11, 12, 13, 14], np.uint8), (64, 64))
    assert sorted_chars.shape == (16, 5)
    assert sorted_chars[4].tolist() == [11, 0, 0, 0, 0]
    assert sorted_chars[3].tolist() == [13, 12, 0, 0, 0]
    assert sorted_chars[8].tolist() == [14, 0, 0, 0, 0]
    assert np.count_nonzero(sorted_chars) == 4


def test_two_lines_in_a_patch_are_named_one_after_the_other_even_if_they_slant() -> None:
    centres = np.array([[2.0, 3.0], [9.0, 3.2], [5.0, 14.0], [12.0, 14.2]], np.float32)
    sorted_chars = characters_by_patch(centres, np.array([10, 11, 12, 13], np.uint8), (32, 32))
    assert sorted_chars[0].tolist() == [11, 12, 13, 14, 0]


def test_a_token_is_at_its_first_character_that_is_no_space() -> None:
    points = np.arange(12, dtype=np.float32).reshape(6, 2)
    where = token_points("ab cd ", [(0, 2), (2, 5), (5, 6)], points)
    assert where.tolist() == [[0, 1], [6, 7], [10, 11]]


def test_prose_is_kept_and_drawings_are_not() -> None:
    text = (
        "A first line\nof plain prose goes on here.\n\n\t\t-- Somebody\n\n|-----|  +--+ |__| ==== [*] [*] {x}"
    )
    assert [part for part in paragraphs(text) if is_prose(part)] == [
        "A first line of plain prose goes on here."
    ]


def test_the_same_sentence_is_recognised_in_other_dress() -> None:
    first = sentence_keys('He said so. "The sea was calm that day!"')
    second = sentence_keys("The sea -- was calm, that day. And then it was not any more.")
    assert first & second == {"theseawascalmthatday"}


def test_markup_becomes_blocks() -> None:
    parts = list(parse("# Title\n\ntwo\nlines\n\n- a\n- b\n\n| x | y |\n| | z |\n"))
    assert parts == [
        Part("#", ("Title",)),
        Part("", ("two lines",)),
        Part("-", ("a", "b")),
        Part("|", (" x | y ", " | z ")),
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.file)
def test_each_example_page_has_the_words_of_its_source_beside_it(example: Example) -> None:
    path = ROOT / "examples/pages" / example.file
    with Image.open(path) as image:
        assert image.size == example.size
    words = path.with_suffix(".txt").read_text("utf-8").split()
    markup = (TEXTS / Path(example.file).with_suffix(".txt")).read_text("utf-8")
    assert words == [word for word in markup.split() if word not in ("#", "##", "-", "|")]
    assert set("".join(words)) <= set(ALPHABET)


def test_the_example_pages_are_small_and_come_in_all_formats() -> None:
    files = [path for path in (ROOT / "examples/pages").rglob("*") if path.suffix.lower() != ".txt"]
    pages = [path for path in files if path.is_file()]
    assert len(pages) == len(EXAMPLES) >= 16
    endings = {path.suffix for path in pages}
    formats = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
    assert formats <= {ending.lower() for ending in endings}
    assert endings - formats
    assert any(path.parent != ROOT / "examples/pages" for path in pages)
    assert sum(path.stat().st_size for path in pages) < 3_000_000

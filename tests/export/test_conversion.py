"""A page becomes HTML, Markdown and pictures as the authors' package makes them, only without what acts."""

import io
import re
import time

import pytest
from chandra import output as package
from PIL import Image

from mlx_chandra.documents.page import Page
from mlx_chandra.errors import DiskFullError, PageError
from mlx_chandra.export import conversion
from mlx_chandra.export.conversion import ConvertedPage, convert
from mlx_chandra.export.layout import Box
from mlx_chandra.export.settings import Choices
from tests.export.pages import result

SIZE = (200, 400)
PAGE = "".join([
    '<div data-bbox="0 0 1000 50" data-label="Page-Header">The Daily Page</div>',
    '<div data-bbox="50 60 900 100" data-label="Section-Header"><h2>News &amp; more</h2></div>',
    '<div data-bbox="50 100 900 200" data-label="Text">It costs $5 in_all.</div>',
    '<div data-bbox="50 200 900 300" data-label="Text"><p>So <math>a &lt; b</math> is <b>big</b>.</p></div>',
    '<div data-bbox="50 300 900 400" data-label="Equation-Block"><math display="block">x^2</math></div>',
    '<div data-bbox="500 500 1000 1000" data-label="Figure"><img alt="a dog"/><p>It runs.</p></div>',
    '<div data-bbox="50 960 900 990" data-label="Page-Footer">7</div>',
])  # fmt: skip


def page(which: Page) -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    image.paste("red", (100, 200, 200, 400))
    return image


def never(which: Page) -> Image.Image:
    pytest.fail("the page was opened again for nothing")


def gone(which: Page) -> Image.Image:
    raise PageError("missing", "there is no such file")


class Saved(dict[str, bytes]):
    """The figures that were saved, by their names."""

    def __call__(self, name: str, figure: bytes) -> str:
        self[name] = figure
        return name


def converted(
    text: str,
    choices: Choices | None = None,
    open_page: conversion.OpenPage = page,
    *,
    size: tuple[int, int] | None = SIZE,
    scale: int | None = 1000,
    saved: conversion.SaveFigure | None = None,
) -> ConvertedPage:
    found = result(text, size=size, scale=scale)
    return convert(found, choices or Choices(), open_page, Saved() if saved is None else saved)


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("pictures", [False, True])
def test_a_harmless_page_is_converted_as_the_package_does(headers: bool, pictures: bool) -> None:
    found = converted(PAGE, Choices(headers, pictures))
    by_package = package.parse_html(PAGE, headers, pictures)
    assert re.sub(r"\s*/?>", ">", found.html) == re.sub(r' src="(\S+)"/>', r' src="\1">', by_package)
    assert found.markdown == package.parse_markdown(PAGE, headers, pictures)
    assert ("The Daily Page" in found.text) is headers
    assert ("a dog" in found.text) is pictures
    assert len(found.blocks) == 7  # all, whatever is chosen


def test_a_figure_is_cut_out_under_the_name_that_the_package_gives_it() -> None:
    saved = Saved()
    found = converted(PAGE, saved=saved)
    (name,) = found.pictures
    assert name == package.get_image_name(PAGE, 6)
    cut = Image.open(io.BytesIO(saved[name]))
    assert (cut.format, cut.size) == ("WEBP", (100, 200))
    red, green, blue = cut.convert("RGB").getpixel((50, 100))  # type: ignore[misc]
    assert red > 200 > 50 > max(green, blue)
    assert f'src="{name}"' in found.html
    assert f"]({name})" in found.markdown
    assert [block.image for block in found.blocks] == [None] * 5 + [name, None]


def test_the_page_is_opened_again_for_figures_and_for_an_unknown_size_alone() -> None:
    assert converted(PAGE, Choices(pictures=False), never).pictures == ()
    assert converted("<p>a</p>", None, never, scale=None).markdown == "a"
    found = converted('<div data-bbox="[0, 0, 512, 1024]">a</div>', size=None, scale=None)
    assert (found.size, found.blocks[0].bbox) == (SIZE, Box(0, 0, 100, 400))


def test_a_page_that_is_gone_keeps_its_text_and_says_what_is_missing() -> None:
    found = converted(PAGE, None, gone)
    assert found.problems == (
        "The page couldn't be opened again, so its pictures weren't cut out: there is no such file.",
    )
    assert found.pictures == ()
    assert "src" not in found.html  # no picture that isn't there
    unknown = converted(PAGE, None, gone, size=None)
    assert "boxes in pixels are missing" in unknown.problems[0]
    assert unknown.blocks[0].bbox is None
    assert "News" in unknown.markdown


@pytest.mark.parametrize("error", [OSError("torn"), MemoryError(), ZeroDivisionError("odd")])
def test_a_page_that_cannot_be_opened_for_any_reason_keeps_its_form(error: Exception) -> None:
    def failing(which: Page) -> Image.Image:
        raise error

    found = converted(PAGE, None, failing)
    assert type(error).__name__ in found.problems[0]
    assert not found.is_plain
    assert "## News" in found.markdown


def test_a_page_that_has_changed_gives_no_wrong_pictures() -> None:
    found = converted(PAGE, size=(300, 300))
    assert found.pictures == ()
    assert "another size" in found.problems[0]


@pytest.mark.parametrize("box", ["500 500 500 500", "", "0 0 0 900", "600 0 500 900"])
def test_a_figure_without_pixels_is_a_problem_and_not_a_failure(box: str) -> None:
    text = f'<div data-bbox="{box}" data-label="Figure"><img alt="a dog"/></div>'
    found = converted(text)
    assert found.pictures == ()
    assert "couldn't be cut out" in found.problems[0]
    assert found.text == "a dog"


def test_a_figure_that_the_model_gave_no_img_is_cut_out_all_the_same() -> None:
    found = converted('<div data-bbox="500 500 1000 1000" data-label="Image">a dog</div>')
    (name,) = found.pictures
    assert f'src="{name}"' in found.html


def test_scripts_on_a_page_reach_neither_html_nor_markdown_nor_blocks() -> None:
    inside = (
        "<script>alert(1)</script><table><tr><td onclick='x()'><script>alert(2)</script>t</td></tr></table>"
    )
    found = converted(f'<div data-bbox="0 0 9 9" data-label="Text">{inside}</div>')
    for written in (found.html, found.markdown, found.blocks[0].content):
        assert "<script" not in written
        assert "onclick" not in written
        assert "alert(1)" in written  # as words


def test_words_in_pointed_brackets_stay_words_in_markdown() -> None:
    text = (
        "<div><p>a &lt; b, &lt;script&gt;x&lt;/script&gt;</p><code>&lt;b&gt;</code><math>x&lt;y</math></div>"
    )
    markdown = converted(text).markdown
    assert "a < b, &lt;script>x&lt;/script>" in markdown
    assert "`<b>`" in markdown
    assert "$x< y$" in markdown


def test_an_answer_that_markdown_cannot_hold_is_kept_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    found = converted("<div>" + "<b>a <i>" * 3000)
    assert found.markdown.count("a") == 3000
    assert "can't be turned into Markdown" in found.problems[0]
    assert capsys.readouterr().out == ""


def test_an_answer_without_layout_is_there_too() -> None:
    found = converted("<h1>Title</h1><p>words</p>")
    assert found.markdown == "# Title\n\nwords"
    assert found.html == "<h1>Title</h1><p>words</p>"


def test_nothing_said_is_nothing_written() -> None:
    assert converted(" \n", None, never) == ConvertedPage(SIZE)


@pytest.mark.parametrize("error", [KeyError("odd"), RecursionError(), MemoryError(), ValueError("x" * 999)])
def test_a_page_that_cannot_be_converted_stands_as_its_text(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbling(*_: object) -> str:
        raise error

    monkeypatch.setattr(conversion, "_markdown", stumbling)
    found = converted("<div><p>a &lt;b&gt; c</p><script>d</script></div>")
    assert found.is_plain
    assert found.text == "a <b> c  d"
    assert found.markdown == "a &lt;b> c  d"
    assert found.html == found.blocks[0].content == "<p>a &lt;b&gt; c  d</p>"
    (problem,) = found.problems
    assert type(error).__name__ in problem
    assert len(problem) < 400


def test_a_disk_that_is_full_is_no_problem_of_one_page() -> None:
    def full(name: str, figure: bytes) -> str:
        raise DiskFullError("full")

    with pytest.raises(DiskFullError):
        converted(PAGE, saved=full)


@pytest.mark.parametrize("text", ["<a " * 9000, "<a =" * 9000, "<a x='" * 9000, "&#" + "1" * 9000 + ";"])
def test_what_no_html_parser_takes_in_time_stands_as_its_text(text: str) -> None:
    began = time.process_time()
    found = converted(f"<p>words</p>{text}")
    assert time.process_time() - began < 3
    assert found.is_plain
    assert "words" in found.markdown


def test_figures_that_cover_the_page_many_times_are_not_all_cut_out() -> None:
    figure = '<div data-bbox="0 0 {} 1000" data-label="Figure"><img alt="f"/></div>'
    found = converted("".join(figure.format(900 + number) for number in range(50)))
    assert len(found.pictures) == 4
    assert found.problems == ("From block 5 on, no pictures were cut out: they overlap too much.",)
    assert len(found.blocks) == 50
    few = converted("".join(figure.format(100) for number in range(20)))
    assert (len(few.pictures), few.problems) == (20, ())

"""A page becomes HTML, Markdown and pictures as the authors' package makes them, only without what acts."""

import io
import re

import pytest
from chandra import output as package
from PIL import Image

from mlx_chandra.errors import PageError
from mlx_chandra.outputs.conversion import Choices, ConvertedPage, convert
from mlx_chandra.outputs.layout import Box, Size

SIZE = Size(200, 400)
PAGE = "".join([
    '<div data-bbox="0 0 1000 50" data-label="Page-Header">The Daily Page</div>',
    '<div data-bbox="50 60 900 100" data-label="Section-Header"><h2>News &amp; more</h2></div>',
    '<div data-bbox="50 100 900 200" data-label="Text">It costs $5 in_all.</div>',
    '<div data-bbox="50 200 900 300" data-label="Text"><p>So <math>a &lt; b</math> is <b>big</b>.</p></div>',
    '<div data-bbox="50 300 900 400" data-label="Equation-Block"><math display="block">x^2</math></div>',
    '<div data-bbox="500 500 1000 1000" data-label="Figure"><img alt="a dog"/><p>It runs.</p></div>',
    '<div data-bbox="50 960 900 990" data-label="Page-Footer">7</div>',
])  # fmt: skip


def page() -> Image.Image:
    image = Image.new("RGB", SIZE.size, "white")
    image.paste("red", (100, 200, 200, 400))
    return image


def never() -> Image.Image:
    pytest.fail("the page was opened again for nothing")


def gone() -> Image.Image:
    raise PageError("missing", "there is no such file")


def converted(text: str, choices: Choices | None = None) -> ConvertedPage:
    return convert(text, 1000, SIZE, choices or Choices(), page)


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
    found = converted(PAGE)
    (name,) = found.pictures
    assert name == package.get_image_name(PAGE, 6)
    cut = Image.open(io.BytesIO(found.pictures[name]))
    assert (cut.format, cut.size) == ("WEBP", (100, 200))
    red, green, blue = cut.convert("RGB").getpixel((50, 100))  # type: ignore[misc]
    assert red > 200 > 50 > max(green, blue)
    assert f'src="{name}"' in found.html
    assert f"]({name})" in found.markdown
    assert [block.picture for block in found.blocks] == [None] * 5 + [name, None]


def test_the_page_is_opened_again_for_figures_and_for_an_unknown_size_alone() -> None:
    assert convert(PAGE, 1000, SIZE, Choices(pictures=False), never).pictures == {}
    assert convert("<p>a</p>", None, SIZE, Choices(), never).markdown == "a"
    found = convert('<div data-bbox="[0, 0, 512, 1024]">a</div>', None, None, Choices(), page)
    assert (found.size, found.blocks[0].box) == (SIZE, Box(0, 0, 100, 400))


def test_a_page_that_is_gone_keeps_its_text_and_says_what_is_missing() -> None:
    found = convert(PAGE, 1000, SIZE, Choices(), gone)
    assert found.problems == (
        "The page couldn't be opened again, so its pictures weren't cut out: there is no such file.",
    )
    assert found.pictures == {}
    assert "src" not in found.html  # no picture that isn't there
    unknown = convert(PAGE, 1000, None, Choices(), gone)
    assert "boxes in pixels are missing" in unknown.problems[0]
    assert unknown.blocks[0].box is None
    assert "News" in unknown.markdown


def test_a_page_that_has_changed_gives_no_wrong_pictures() -> None:
    found = convert(PAGE, 1000, Size(300, 300), Choices(), page)
    assert found.pictures == {}
    assert "another size" in found.problems[0]


@pytest.mark.parametrize("box", ["500 500 500 500", "", "0 0 0 900", "600 0 500 900"])
def test_a_figure_without_pixels_is_a_problem_and_not_a_failure(box: str) -> None:
    text = f'<div data-bbox="{box}" data-label="Figure"><img alt="a dog"/></div>'
    found = converted(text)
    assert found.pictures == {}
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
    assert convert(" \n", 1000, SIZE, Choices(), never) == ConvertedPage(SIZE)

"""The plain text of a page reads as the page does."""

import time

import pytest

from mlx_chandra.export.plain_text import plain_text, without_tags


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>Title</h1>\n<p>one\n two<br/>three</p><p>four</p>", "Title\n\none two\nthree\n\nfour"),
        ("<ul><li>a</li><li>b <b>c</b></li></ul>", "a\n\nb c"),
        (
            "<table><caption>C</caption><thead><tr><th>A</th><th>B</th></tr></thead>"
            "<tbody> <tr> <td></td><td><p>1\n2</p></td> </tr></tbody></table>",
            "C\n\nA\tB\n\t1 2",
        ),
        ('<input type="checkbox" checked/> yes <input type="radio"/> no', "[x] yes [ ] no"),
        ('<p>Name: <input type="text" value="Ann"/></p>', "Name: Ann"),
        ("<p>so <math>a &lt; b</math></p>", "so a < b"),
        ('<img alt="a dog"/><p>It runs.</p>', "a dog\n\nIt runs."),
        ("<pre>if a:\n    b\n  c</pre>", "if a:\n    b\n  c"),
        ("<!-- c -->no tags at all", "no tags at all"),
        ("", ""),
    ],
)
def test_tags_become_lines_tabs_and_marks(html: str, text: str) -> None:
    assert plain_text(html) == text


def test_an_endless_answer_keeps_its_words() -> None:
    assert plain_text("<b><i>a" * 3000) == "\n".join("a" * 3000)


def test_words_are_kept_without_tags_whatever_stands_there() -> None:
    assert without_tags("<p>a &lt; b</p> 3 < 4 <b x='") == "a < b  3 < 4 <b x='"
    assert "12345" in without_tags("a &#" + "12345" * 2000 + ";")
    assert "12345" in plain_text("a &#" + "12345" * 2000 + ";")


@pytest.mark.parametrize("text", ["<a " * 50_000, "<" * 100_000, "<a" + " " * 200_000, "&" * 100_000])
def test_tags_are_left_out_in_linear_time(text: str) -> None:
    began = time.process_time()
    without_tags(text)
    assert time.process_time() - began < 2


def test_many_spaces_in_a_line_take_no_time() -> None:
    began = time.process_time()
    assert plain_text("<pre>a" + " " * 100_000 + "b</pre>").endswith("b")
    assert time.process_time() - began < 2

"""The plain text of a page reads as the page does."""

import pytest

from mlx_chandra.outputs.plain_text import plain_text


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


def test_an_answer_that_went_in_circles_keeps_its_words() -> None:
    assert plain_text("<b><i>a" * 3000) == "\n".join("a" * 3000)

"""Nothing in a page's HTML acts in a browser, and everything that a page can hold is still there."""

import pytest

from mlx_chandra.export.sanitise import sanitised


@pytest.mark.parametrize(
    ("html", "clean"),
    [
        ("<p>a</p><script>alert(1)</script>", "<p>a</p>alert(1)"),
        ('<img src="x" onerror="alert(1)" alt="d">', '<img alt="d">'),
        ('<img src="//elsewhere/seen.gif">', "<img>"),
        ('<a href="javascript:alert(1)">x</a>', '<a rel="noopener noreferrer">x</a>'),
        ('<iframe src="x">y</iframe><svg onload="alert(1)"></svg>', "y"),
        ('<form action="x"><input formaction="y"></form>', "<input>"),
        ('<p style="position:fixed;color:red;background:url(x)">a</p>', '<p style="color:red">a</p>'),
        ('<meta http-equiv="refresh" content="0;url=x"><base href="x"><style>p{}</style>', "p{}"),
        ("<math><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>", None),
        ("<noscript><p title='</noscript><img src=x onerror=alert(1)>'></noscript>", None),
    ],
)
def test_what_would_act_is_gone(html: str, clean: str | None) -> None:
    found = sanitised(html)
    assert clean is None or found == clean
    assert "<script" not in found
    assert "<img src" not in found
    assert "<style" not in found


@pytest.mark.parametrize(
    "html",
    [
        '<math display="block">\\frac{a}{b} &lt; \\sqrt{c}</math>',
        "<p>so <math>x^2 &amp; y</math> is</p>",
        '<table border="1"><thead><tr><th colspan="2">a</th></tr></thead>'
        '<tbody><tr><td rowspan="2" style="text-align:center">b</td></tr></tbody></table>',
        '<p><input type="checkbox" checked=""> yes <input type="radio"> <input type="text" value="Ann"></p>',
        '<div data-bbox="1 2 3 4" data-label="Text" class="c">a</div>',
        '<ol start="3" type="a"><li value="4">a<ul><li>b</li></ul></li></ol>',
        "<pre><code>if a &lt; b:\n    c</code></pre>",
        "<p><chem>C1=CC=CC=C1</chem> <sub>2</sub><sup>3</sup><del>d</del><big>e</big><small>f</small></p>",
        "<h1>a</h1><h5>b</h5><hr><b>c</b><i>d</i><u>e</u><br>",
    ],
)
def test_what_a_page_can_hold_survives(html: str) -> None:
    assert sanitised(html) == html


def test_every_tag_and_attribute_of_the_prompt_is_kept() -> None:
    from chandra.prompts import ALLOWED_ATTRIBUTES, ALLOWED_TAGS

    from mlx_chandra.export.sanitise import ATTRIBUTES, TAGS

    assert set(ALLOWED_TAGS) <= TAGS
    assert set(ALLOWED_ATTRIBUTES) <= ATTRIBUTES


def test_a_picture_keeps_the_source_that_was_cut_out_of_its_page() -> None:
    html = '<img src="a_1_img.webp"><img src="b_1_img.webp">'
    assert sanitised(html, {"a_1_img.webp"}) == '<img src="a_1_img.webp"><img>'

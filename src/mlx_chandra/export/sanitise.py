"""Keeps of a page's HTML what a page can hold, and nothing that acts.

A page picture can make the model say anything, `<script>` and `onerror` included. nh3 keeps the tags and
attributes that Chandra's prompt allows, and what comes close to them; of other tags, the text in them stays.
"""

from collections.abc import Collection

TAGS = frozenset(
    """
    a b big blockquote br caption chem code col colgroup dd del div dl dt em figcaption figure h1 h2 h3 h4 h5
    h6 hr i img input label li math ol option p pre s select small span strong sub sup table tbody td textarea
    tfoot th thead tr u ul
    """.split()
)
ATTRIBUTES = frozenset(
    """
    align alt border checked class colspan data-bbox data-label disabled display href rowspan selected start
    style title type value
    """.split()
)
STYLES = frozenset(
    """
    background-color border border-bottom border-collapse border-left border-right border-top color
    font-family font-size font-style font-variant font-weight height line-height list-style-type margin-left
    padding-left text-align text-decoration text-indent text-transform vertical-align white-space width
    """.split()
)
LINKS = frozenset({"http", "https", "mailto", "tel"})


def sanitised(html: str, pictures: Collection[str] = ()) -> str:
    """Return the HTML without what a browser would run, fetch or send.

    `pictures` are the file names that the `src` of an `<img>` may name; any other is left out.
    """
    import nh3

    def kept(tag: str, attribute: str, value: str) -> str | None:
        return value if attribute != "src" or value in pictures else None

    return nh3.clean(
        html,
        tags=set(TAGS),
        clean_content_tags=set(),
        attributes={"*": set(ATTRIBUTES), "img": {"src"}},
        attribute_filter=kept,
        filter_style_properties=set(STYLES),
        url_schemes=set(LINKS),
    )

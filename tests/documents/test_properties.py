"""Page selections, manifests and names of text files hold for whatever people write."""

import io
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_chandra.documents.manifest import Manifest
from mlx_chandra.documents.names import (
    PAGED,
    is_document_name,
    page_stem,
    stems_that_need_more,
    suffix_of,
    text_stem,
)
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.errors import UsageError

alike = settings(deadline=None, database=None)

ends = st.integers(-9, 9).filter(bool)
ranges = st.tuples(ends, st.none() | ends)  # 3-5; the last page where the second is None
names = st.text(
    st.characters(exclude_characters="\0\r\n/\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=20
)
stems = st.sampled_from(["a", "A", "b", "a_p0001", "a_P0002", "a.png", "a.pdf", "a.pdf_p0001", "a.png_p0001"])
endings = st.sampled_from([".png", ".PNG", ".jpg", ".pdf", ".tif", ".gif"])


@alike
@given(st.lists(ranges, min_size=1, max_size=4), st.integers(0, 12))
def test_a_selection_means_what_counting_from_both_ends_gives(
    parts: list[tuple[int, int | None]], count: int
) -> None:
    text = ",".join(f"{first}-" if last is None else f"{first}-{last}" for first, last in parts)
    pages = range(count)
    if any(last is not None and first > last and first * last > 0 for first, last in parts):
        try:
            PageSelection.parse(text)
        except UsageError:
            return
        raise AssertionError(f"{text} ends before it begins")

    def place(number: int) -> int:
        return number - 1 if number > 0 else count + number

    wanted = [page + 1 for page in pages if any(place(a) <= page <= place(b or -1) for a, b in parts)]
    assert list(PageSelection.parse(text).of(count)) == wanted


@alike
@given(st.text("0123-, x", max_size=8), st.integers(0, 9))
def test_any_text_is_a_selection_or_wrong_usage(text: str, count: int) -> None:
    try:
        found = list(PageSelection.parse(text).of(count))
    except UsageError:
        return
    assert found == sorted(set(found) & set(range(1, count + 1)))


@alike
@given(st.lists(names), st.sampled_from(["\n", "\r\n", "\0"]), st.booleans())
def test_a_manifest_gives_every_name_once_in_its_order(found: list[str], end: str, with_mark: bool) -> None:
    found = [name for name in found if name.strip() not in ("", ".", "..")]
    lines = [line for name in found for line in (f"./{name}", "", *(["# no name"] if end != "\0" else []))]
    text = ("\ufeff" if with_mark else "") + "".join(line + end for line in lines)
    given_paths = [document.path for document in Manifest.from_stream(io.BytesIO(text.encode()))]
    assert given_paths == [os.path.join(os.getcwd(), name) for name in dict.fromkeys(found)]


@alike
@given(st.lists(st.builds(str.__add__, stems, endings), unique_by=str.casefold, max_size=8))
def test_no_two_documents_of_a_folder_share_a_text_file(found: list[str]) -> None:
    documents = [name for name in found if is_document_name(name)]
    need_more = stems_that_need_more(documents)
    texts: list[str] = []
    for name in documents:
        stem = text_stem(name, need_more)
        pages = [page_stem(stem, number) for number in (1, 2)] if suffix_of(name) in PAGED else []
        texts += [text.casefold() for text in (stem, *pages)]
    assert len(texts) == len(set(texts))

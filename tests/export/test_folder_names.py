"""Whatever documents are called, their folders have names that disks take, and no two the same."""

import unicodedata

import pytest

from mlx_chandra.export.folders import Folders

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

FILE_NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=255
)


@given(FILE_NAMES, FILE_NAMES)
def test_every_name_gives_a_folder_inside_and_two_documents_never_one(
    tmp_path_factory: pytest.TempPathFactory, first: str, second: str
) -> None:
    folders = Folders(str(tmp_path_factory.getbasetemp() / "not there"))
    one = folders.name_of(f"/1/{first}", first)
    two = folders.name_of(f"/2/{second}", second)
    assert one == folders.name_of(f"/1/{first}", first)
    folded = [unicodedata.normalize("NFC", name).casefold() for name in (one, two)]
    assert folded[0] != folded[1]
    for name in (one, two):
        assert len(name.encode()) <= 200
        assert "/" not in name
        assert name not in ("", ".", "..")

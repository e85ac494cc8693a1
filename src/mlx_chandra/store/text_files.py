"""Writes text files, one a page: whole or not at all, and on the disk before the page's row is.

A text goes to a hidden file beside its place, which is synced and renamed. That name depends on the page
and on the run's CSV only, so a run that was killed leaves at most files that its continuation writes again.
"""

import os
from collections.abc import Mapping

from mlx_chandra.errors import DiskFullError, OutputError
from mlx_chandra.files.disk import cleaned, disk_errors, sync_folder, write_whole


def text_path(image_path: str, text_stem: str, below: str, text_dir: str | None) -> str:
    """Return where a page's text goes: `<text_stem>_ocr.txt` beside its image, or under `text_dir`.

    Args:
        image_path: Full path of the image.
        text_stem: The image's name, or its stem where that is unique in its folder.
        below: The image's folder, seen from the top of what is read.
        text_dir: Top of the tree of texts, which is that of the images; None for beside the images.
    """
    folder = os.path.dirname(image_path) if text_dir is None else os.path.join(text_dir, below)
    return os.path.join(folder, f"{text_stem}_ocr.txt")


class TextFiles:
    """Writes texts in groups, so that a folder is synced once a group."""

    def __init__(self, csv_path: str) -> None:
        self._csv_path = csv_path

    def write(self, texts: Mapping[str, str]) -> dict[str, OutputError]:
        """Write each path's text and return once all are on the disk.

        Returns those that couldn't be written, with the reason: a read-only folder, say, or a name too long.
        Raises DiskFullError: nothing can be written any more.
        """
        failed: dict[str, OutputError] = {}
        folders: set[str] = set()
        for path, text in texts.items():
            try:
                write_whole(path, cleaned(text).encode(), self._csv_path)
                folders.add(os.path.dirname(path))
            except DiskFullError:
                raise
            except OutputError as error:
                failed[path] = error
        for folder in folders:
            with disk_errors(folder):
                sync_folder(folder)
        return failed

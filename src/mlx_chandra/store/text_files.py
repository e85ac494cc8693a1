"""Writes text files, one a page: whole or not at all, and on the disk before the page's row is."""

import os
from collections.abc import Mapping

from mlx_chandra.errors import DiskFullError, OutputError
from mlx_chandra.files.disk import cleaned, disk_errors, sync_folder, write_whole


def text_path(image_path: str, text_stem: str, below: str, text_dir: str | None) -> str:
    """Return where a page's text goes: `<text_stem>_ocr.txt` beside its image or in `text_dir/below`."""
    folder = os.path.dirname(image_path) if text_dir is None else os.path.join(text_dir, below)
    return os.path.join(folder, f"{text_stem}_ocr.txt")


class TextFiles:
    """Writes texts in groups, so that a folder is synced once a group.

    Names of unfinished files depend on the page and the run's CSV only: the next run writes them again.
    """

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

"""Fetches what the demo checkpoint's pages are made from: fonts, a word list and English prose.

    python -m tools.demo_model.fetch_data [FOLDER]

Everything comes from Debian's own packages through `apt-get download`; nothing is installed. The folder
(default: tools/demo_model/.data, ignored by git, about 8 MB) then holds

    fonts/*.ttf        Liberation and DejaVu
    words.txt          an American English word list
    prose_train.txt    paragraphs to train on, one a line
    prose_eval.txt     paragraphs of other works to measure on; shares no sentence with prose_train.txt
    prompts.json       the prompts the checkpoint answers, the long ones as the package chandra-ocr has them
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.demo_model.text import ALPHABET

DATA_FOLDER = Path(__file__).parent / ".data"
PACKAGES = (
    "fonts-liberation",
    "fonts-dejavu-core",
    "fonts-dejavu-extra",
    "wamerican",
    "fortunes",
    "fortunes-min",
    "jargon-text",
    "dict-devil",
    "debian-faq",
)
FONT_FILES = (
    "liberation/Liberation*.ttf",
    "dejavu/DejaVuSans.ttf",
    "dejavu/DejaVuSans-Bold.ttf",
    "dejavu/DejaVuSans-Oblique.ttf",
    "dejavu/DejaVuSansCondensed.ttf",
    "dejavu/DejaVuSansMono.ttf",
    "dejavu/DejaVuSerif.ttf",
    "dejavu/DejaVuSerif-Bold.ttf",
    "dejavu/DejaVuSerif-Italic.ttf",
)
SHORT_PROMPT = "OCR this image to HTML."
FORTUNES_LEFT_OUT = {"ascii-art", "ethnic", "men-women", "drugs", "zippy", "translate-me", "goedel"}


def unpack_packages(names: Iterable[str], folder: Path) -> None:
    """Download Debian packages and unpack their files under `folder`, without installing them."""
    downloads = folder / "downloads"
    downloads.mkdir(parents=True)
    subprocess.run(
        ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names], cwd=downloads, check=True
    )
    for package in sorted(downloads.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)


def paragraphs(text: str) -> Iterator[str]:
    """Join the lines of each paragraph; blank lines and indented first lines start a new one."""
    text = re.sub(r".\x08", "", text).replace("\r", "")
    for chunk in re.split(r"\n\s*\n|\n%\n|\n(?=\t\t+--)", text):
        for part in re.split(r"\n(?=\t)", chunk):
            yield re.sub(r"\s+", " ", part).strip()


def is_prose(paragraph: str) -> bool:
    """Return whether a paragraph is running text: six words or more, mostly letters, no drawings."""
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    words = paragraph.split()
    return (
        len(words) >= 6
        and letters >= 0.85 * len(paragraph)
        and set(paragraph) <= set(ALPHABET) | {" "}
        and max(map(len, words)) <= 24
        and not re.search(r"https?:|[|*_^~\\]{2}|[=-]{3,}|\+--", paragraph)
    )


def sentence_keys(paragraph: str) -> set[str]:
    """Reduce the paragraph's sentences to lower-case letters, to find the same sentence elsewhere."""
    sentences = re.split(r"(?<=[.!?;:])\s+", paragraph)
    keys = (re.sub(r"[^a-z]", "", sentence.lower()) for sentence in sentences)
    return {key for key in keys if len(key) >= 12}


def read_fortunes(root: Path) -> Iterator[str]:
    for path in sorted((root / "usr/share/games/fortunes").iterdir()):
        if path.suffix == "" and path.name not in FORTUNES_LEFT_OUT and not path.is_symlink():
            yield from paragraphs(path.read_text("utf-8", errors="replace"))


def read_gzip(path: Path) -> Iterator[str]:
    yield from paragraphs(gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace"))


def write_prose(root: Path, folder: Path) -> None:
    """Write prose_train.txt and prose_eval.txt; an eval paragraph with a sentence of train's is dropped."""
    train = [*read_fortunes(root), *read_gzip(root / "usr/share/doc/jargon-text/jargon.txt.gz")]
    train = list(dict.fromkeys(filter(is_prose, train)))
    seen = set().union(*map(sentence_keys, train))
    held_out = [
        *read_gzip(root / "usr/share/dictd/devil.dict.dz"),
        *read_gzip(root / "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz"),
    ]
    held_out = list(dict.fromkeys(filter(is_prose, held_out)))
    held_out = [paragraph for paragraph in held_out if not sentence_keys(paragraph) & seen]
    (folder / "prose_train.txt").write_text("\n".join(train) + "\n", "utf-8")
    (folder / "prose_eval.txt").write_text("\n".join(held_out) + "\n", "utf-8")


def write_words(root: Path, folder: Path) -> None:
    words = (root / "usr/share/dict/american-english").read_text("utf-8").split()
    kept = [word for word in words if len(word) >= 2 and set(word) <= set(ALPHABET)]
    (folder / "words.txt").write_text("\n".join(kept) + "\n", "utf-8")


def write_prompts(folder: Path) -> None:
    """Write the short prompt and Chandra 2's two, which only the authors' package knows."""
    from chandra.prompts import OCR_LAYOUT_PROMPT, OCR_PROMPT

    prompts = {"short": SHORT_PROMPT, "ocr": OCR_PROMPT, "ocr_layout": OCR_LAYOUT_PROMPT}
    (folder / "prompts.json").write_text(json.dumps(prompts, indent=1) + "\n", "utf-8")


def fetch(folder: Path) -> None:
    """Fill `folder`; needs apt-get, dpkg-deb, a Debian mirror and the package chandra-ocr 0.2."""
    (folder / "fonts").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "root"
        unpack_packages(PACKAGES, root)
        for pattern in FONT_FILES:
            for font in (root / "usr/share/fonts/truetype").glob(pattern):
                shutil.copy(font, folder / "fonts" / font.name)
        write_words(root, folder)
        write_prose(root, folder)
    write_prompts(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch fonts, words and prose for the demo checkpoint.")
    parser.add_argument("folder", nargs="?", type=Path, default=DATA_FOLDER)
    folder = parser.parse_args().folder
    fetch(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""How paths are shown in files of UTF-8, and read back from there."""

import os
import re
import unicodedata

_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2})")
_ESCAPED_BYTES = re.compile(rb"\\x([0-9a-f]{2})")


def shown_path(path: str) -> str:
    r"""Return the path in valid UTF-8, with `\xNN` for each byte that isn't.

    Each path has a form of its own: where a name really contains a backslash, an x and two hexadecimal
    digits, its backslash is written as `\x5c`. `real_path` turns it back.
    """
    return with_shown_bytes(_ESCAPE.sub(r"\\x5c", path) if "\\x" in path else path)


def with_shown_bytes(path: str) -> str:
    r"""Return the path with `\xNN` for each surrogate escape of Python's."""
    if path.isascii():  # nearly all, of very many
        return path
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in path)


def folded(name: str) -> str:
    """Return the name as a file system that ignores letter case would compare it."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def real_path(shown: str) -> str:
    """Return the path that `shown_path` showed, ready for open()."""
    raw = _ESCAPED_BYTES.sub(lambda match: bytes.fromhex(match[1].decode()), os.fsencode(shown))
    return os.fsdecode(raw)

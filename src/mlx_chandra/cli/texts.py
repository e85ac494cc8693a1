"""Numbers, times and paths in words, as the commands print them."""


def counted(number: int, what: str) -> str:
    """As in "1 page" and "1,200 pages"."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def rate(per_second: float) -> str:
    """A rate with two digits that count where it is small."""
    return f"{per_second:.2g}" if 0 < per_second < 1 else f"{per_second:.1f}"


def short(number: int) -> str:
    """As in 950, 9.5k, 95k, 9.5M."""
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if number >= size:
            return f"{number / size:.2g}{unit}" if number < 100 * size else f"{number // size:,}{unit}"
    return f"{number}"


def printable(text: str) -> str:
    """Text that any terminal takes: on one line, with bytes that are not UTF-8 escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")

"""With what a page was read, as the ledger and the journal keep it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Making:
    """With what a page was read, as its user said it.

    Attributes:
        program: Name and version.
        model: The checkpoint's name or folder.
        settings: All that changes an answer: prompt, limits, number format.
        checkpoint: What tells the model's weights from others, wherever they lie; None while they aren't
            here, so that nobody knows.
    """

    program: str
    model: str
    settings: Mapping[str, str | int | float | bool | None]
    checkpoint: str | None = None

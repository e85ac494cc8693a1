"""Every error that mlx-chandra raises on purpose.

Each one carries what went wrong (`message`), what to do about it (`remedy`) and the exit status of the
program when nothing catches it before the command line does (`exit_code`). Where an error is shown, and how,
is the command line's business. How a page ended, and so its status in the CSV, is a `PageState`.
"""

from enum import IntEnum, StrEnum


class MlxChandraError(Exception):
    """Base of all errors of this package.

    Args:
        message: What was wrong, naming the file, option or tensor it was wrong with.
        remedy: What the reader can do about it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class UsageError(MlxChandraError):
    """The program was called in a way that makes no sense."""

    exit_code = 2


class ModelNotFoundError(MlxChandraError):
    """The named checkpoint is neither bundled, nor a folder, nor to be had from the hub now."""


class CheckpointError(MlxChandraError):
    """A checkpoint folder is there but can't be used as it is."""


class ModelTooLargeError(MlxChandraError):
    """The model doesn't fit into this machine's memory."""


class MeasurementError(MlxChandraError):
    """The device could not do what was to be timed."""


class OutputError(MlxChandraError):
    """Results can't be written where they were asked for."""


class OutputBusyError(OutputError):
    """Another run is writing to the same output."""


class DiskFullError(OutputError):
    """The disk that takes the results is full."""


class PageError(MlxChandraError):
    """One page can't be read; the others go on.

    Args:
        kind: A short word for the kind of failure ("unreadable", "missing", "too-large", ...). It stands in
            the CSV's status as `error:<kind>: <message>`.
    """

    def __init__(self, kind: str, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.kind = kind
        self.args = (kind, message, remedy)  # so that the error survives pickling between processes


class EngineError(MlxChandraError):
    """The device failed while pages were being read, and not for want of memory."""


class ExitCode(IntEnum):
    """What the program says to the shell."""

    OK = 0
    FAILED = 1  # some pages failed, or the program could not go on
    USAGE = 2
    INTERRUPTED = 130


class PageState(StrEnum):
    """How a page ended. The values are what the CSV's status column says."""

    OK = "ok"
    EMPTY = "error:empty"  # the model said nothing
    TRUNCATED = "error:truncated"  # the limit of output tokens was reached
    REPETITION = "error:repetition"  # the model repeated itself without end
    ERROR = "error"  # the page could not be read; its status is `error:<kind>: <what was wrong>`

    @property
    def status(self) -> str:
        """The status column's words. Raises ValueError for ERROR, whose status has a kind: `error_status`."""
        if self is PageState.ERROR:
            raise ValueError("the status of an error names its kind")
        return self.value


def error_status(error: PageError) -> str:
    """The status of a page that could not be read."""
    return f"error:{error.kind}: {error.message}"


def state_of(status: str) -> PageState:
    """The state that a status stands for. Any status that no run writes counts as an error."""
    return next((state for state in PageState if status == state.value), PageState.ERROR)

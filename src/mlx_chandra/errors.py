"""Every error that mlx-chandra raises on purpose.

Each one carries what went wrong (`message`), what to do about it (`remedy`) and the exit status of the
program when nothing catches it before the command line does (`exit_code`). Where an error is shown, and how,
is the command line's business.
"""


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

"""How a page ended, and how the table's status column says it. Both directions are decided here alone."""

from enum import StrEnum

from mlx_chandra.errors import PageError


class PageState(StrEnum):
    """How a page ended; the values are what the status says, where it has no words of its own to add."""

    OK = "ok"  # read to its end
    EMPTY = "error:empty"  # the model said nothing
    TRUNCATED = "error:truncated"  # the limit of tokens was reached
    REPETITION = "error:repetition"  # the model went in circles
    ERROR = "error"  # the page couldn't be read; the status says `error:<kind>: <what was wrong>`

    @property
    def status(self) -> str:
        """As the status column says it. Raises ValueError for ERROR, which has a kind: see `error_status`."""
        if self is PageState.ERROR:
            raise ValueError("an error's status says of which kind it is")
        return self.value


def error_status(error: PageError) -> str:
    """What the status column says of a page that couldn't be read."""
    return f"error:{error.kind}: {error.message}"


def state_of(status: str) -> PageState:
    """The state that a status stands for. What no run wrote is an error: such a page can be done again."""
    for state in PageState:
        if status == state.value:
            return state
    return PageState.ERROR

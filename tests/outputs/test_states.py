"""What a status says, there and back."""

import pytest

from mlx_chandra.errors import PageError, PageState, error_status, state_of


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (PageState.OK, "ok"),
        (PageState.EMPTY, "error:empty"),
        (PageState.TRUNCATED, "error:truncated"),
        (PageState.REPETITION, "error:repetition"),
    ],
)
def test_a_state_has_its_word_in_the_table_and_is_known_by_it(state: PageState, status: str) -> None:
    assert state.status == status
    assert state_of(status) is state


def test_an_error_says_its_kind_and_what_was_wrong() -> None:
    status = error_status(PageError("unreadable", "the file is empty"))
    assert status == "error:unreadable: the file is empty"
    assert state_of(status) is PageState.ERROR
    with pytest.raises(ValueError, match="kind"):
        _ = PageState.ERROR.status


@pytest.mark.parametrize("status", ["", "fine", "OK", "error", "error:"])
def test_what_no_run_wrote_is_an_error_and_never_ok(status: str) -> None:
    assert state_of(status) is PageState.ERROR

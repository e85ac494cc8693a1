"""Without pyarrow, the extra that brings it is named."""

import importlib.util

import pytest

from mlx_chandra.errors import MlxChandraError
from mlx_chandra.export.parquet import check_parquet


def test_pyarrow_that_is_missing_is_said_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    check_parquet()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MlxChandraError, match=r"mlx-chandra\[parquet\]"):
        check_parquet()

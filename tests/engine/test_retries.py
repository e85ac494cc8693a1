"""The sampling of retries is each model's own."""

import pytest

from mlx_chandra.engine.retries import retry_sampling
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.processing.prompt import ModelFamily


def test_chandra_1_is_sampled_at_one_temperature() -> None:
    for retry in (1, 2, 7):
        assert retry_sampling(ModelFamily.CHANDRA_1, retry, 5) == Sampling(0.3, 0.95, 5)


@pytest.mark.parametrize(
    ("retry", "temperature"), [(1, 0.2), (2, 0.4), (3, 0.6), (4, 0.8), (5, 0.8), (9, 0.8)]
)
def test_chandra_2_is_sampled_more_freely_each_time(retry: int, temperature: float) -> None:
    sampling = retry_sampling(ModelFamily.CHANDRA_2, retry, 11)
    assert sampling.temperature == pytest.approx(temperature)
    assert (sampling.top_p, sampling.seed) == (0.95, 11)


def test_the_first_reading_is_no_retry() -> None:
    with pytest.raises(ValueError, match="no retry"):
        retry_sampling(ModelFamily.CHANDRA_1, 0, 0)

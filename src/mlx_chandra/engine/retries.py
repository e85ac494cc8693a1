"""How a page is sampled that went in circles when it was read greedily.

The values are the models' own: Chandra 1's retries all have one temperature, and Chandra 2's a higher one
each time, as its authors' client has them (`generate_vllm` in chandra.model.vllm).
"""

from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.processing.prompt import ModelFamily

_TOP_P = 0.95
_CHANDRA_1_TEMPERATURE = 0.3
_CHANDRA_2_STEP, _CHANDRA_2_MOST = 0.2, 0.8


def retry_sampling(family: ModelFamily, retry: int, seed: int) -> Sampling:
    """The sampling of a page's first, second, ... retry (`retry` is 1, 2, ...), with its own seed."""
    if retry < 1:
        raise ValueError("the first reading of a page is no retry")
    temperature = _CHANDRA_1_TEMPERATURE
    if family is ModelFamily.CHANDRA_2:
        temperature = min(_CHANDRA_2_STEP * retry, _CHANDRA_2_MOST)
    return Sampling(temperature, _TOP_P, seed)

"""What exists for CPUs alone: OpenBLAS's matrix product, and weights of a softmax that are right."""

import math
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_chandra.models import cpu, vision
from mlx_chandra.models.backend import BackendName, Elementwise, current_backend
from mlx_chandra.models.cpu import SWITCH, softmax_weights, use_openblas

ON_LINUX_CPU = sys.platform == "linux" and current_backend().name is BackendName.CPU
pytestmark = pytest.mark.skipif(not ON_LINUX_CPU, reason="only MLX's Linux CPU wheel")
ASK = "from mlx_chandra.models.cpu import use_openblas; print(use_openblas())"


def test_products_go_through_openblas_and_agree_with_numpy() -> None:
    assert use_openblas()
    random = np.random.default_rng(0)
    for rows, inner, columns in ((1, 64, 48), (70, 33, 90), (5, 1, 7)):
        a = random.standard_normal((2, rows, inner)).astype(np.float32)
        b = random.standard_normal((2, columns, inner)).astype(np.float32)
        product = mx.array(a) @ mx.array(b).swapaxes(1, 2)
        assert np.abs(np.array(product) - a @ b.swapaxes(1, 2)).max() < 1e-4


@pytest.mark.parametrize(
    ("variables", "answer"),
    [({}, "True"), ({SWITCH: "0"}, "False")],
    ids=["the extra cpu is installed", "turned off"],
)
def test_a_process_uses_openblas_unless_told_otherwise(variables: dict[str, str], answer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env={**os.environ, "PYTHONPATH": "src", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == answer


@pytest.mark.parametrize(
    ("variables", "threads"),
    [({}, max(1, (os.cpu_count() or 1) // 2)), ({"OPENBLAS_NUM_THREADS": "1"}, 1)],
    ids=["half of the cores", "as the user says"],
)
def test_openblas_leaves_cores_to_the_other_threads(variables: dict[str, str], threads: int) -> None:
    ask = (
        "import ctypes, scipy_openblas32 as blas; from mlx_chandra.models.cpu import use_openblas; "
        "use_openblas(); print(ctypes.CDLL(f'{blas.get_lib_dir()}/lib{blas.get_library()}.so')"
        ".scipy_openblas_get_num_threads())"
    )
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", ask],
        env={**kept, "PYTHONPATH": "src", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == threads


def test_without_openblas_mlx_stays_as_it_is() -> None:
    hidden = "import sys; sys.modules['scipy_openblas32'] = None; " + ASK
    environment = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run([sys.executable, "-c", hidden], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_weights_of_a_softmax_are_right_to_a_few_units_however_far_apart_scores_are() -> None:
    tops = np.array([[-3000.0], [0.0], [70_000.0]], np.float32)
    scores = (tops + np.linspace(-90, 0.5, 182, dtype=np.float32)).astype(np.float32)
    ours = np.array(softmax_weights(mx.array(scores), axis=1)).astype(np.float64)
    exact = np.exp2(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    shares, expected = (x / x.sum(axis=1, keepdims=True) for x in (ours, exact))
    np.testing.assert_allclose(shares, expected, rtol=2e-6)


def test_what_is_no_number_stays_so_and_what_is_masked_weighs_nothing() -> None:
    scores = mx.array([[1.0, float("nan"), 2.0], [1.0, float("-inf"), 2.0]])
    weights = np.array(softmax_weights(scores, axis=1))
    assert np.isnan(weights[0, 1])
    assert 0 <= weights[1, 1] < 1e-25 * weights[1, 2]


@pytest.mark.parametrize("gelu", [cpu.gelu_tanh, vision.gelu_tanh])
def test_gelu_is_right_in_float32_and_keeps_the_dtype_and_what_is_no_number(gelu: Elementwise) -> None:
    x = np.concatenate([np.linspace(-12, 12, 24_001), [0.0, 1e-30, 30.0, -30.0, 1e6, -1e6]])
    x = x.astype(np.float32).astype(np.float64)
    exact = x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    ours = np.array(gelu(mx.array(x.astype(np.float32))))
    np.testing.assert_allclose(ours, exact, rtol=4e-7, atol=1e-6)
    half = gelu(mx.array([1.5, math.nan], mx.bfloat16))
    assert half.dtype == mx.bfloat16
    assert mx.isnan(half).tolist() == [False, True]

"""What the program does differently from machine to machine, without having all the machines."""

import os
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_chandra.models import backend
from mlx_chandra.models.backend import BackendName, current_backend


def pretend(monkeypatch: pytest.MonkeyPatch, device: mx.DeviceType, metal: bool) -> None:
    """Let the backend module see a machine with this default device, with or without Metal."""
    machine = SimpleNamespace(
        default_device=lambda: SimpleNamespace(type=device),
        metal=SimpleNamespace(is_available=lambda: metal),
        DeviceType=mx.DeviceType,
    )
    monkeypatch.setattr(backend, "mx", machine)


@pytest.mark.parametrize(
    ("device", "metal", "name"),
    [
        (mx.DeviceType.gpu, True, BackendName.METAL),
        (mx.DeviceType.gpu, False, BackendName.CUDA),
        (mx.DeviceType.cpu, False, BackendName.CPU),
        (mx.DeviceType.cpu, True, BackendName.CPU),  # a Mac that was told to use its CPU
    ],
)
def test_the_default_device_and_metal_decide_the_backend(
    monkeypatch: pytest.MonkeyPatch, device: mx.DeviceType, metal: bool, name: BackendName
) -> None:
    pretend(monkeypatch, device, metal)
    assert current_backend().name is name


def test_the_cpu_runs_in_float32_and_does_not_decode_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mx.DeviceType.cpu, False)
    assert current_backend().float32_only
    assert not current_backend().decode_ahead


@pytest.mark.parametrize("metal", [True, False])
def test_gpus_keep_the_checkpoints_dtype_and_decode_ahead(
    monkeypatch: pytest.MonkeyPatch, metal: bool
) -> None:
    pretend(monkeypatch, mx.DeviceType.gpu, metal)
    assert not current_backend().float32_only
    assert current_backend().decode_ahead


def test_the_default_device_is_asked_for_each_time() -> None:
    before = mx.default_device()
    try:
        mx.set_default_device(mx.Device(mx.DeviceType.cpu))
        assert current_backend().name is BackendName.CPU
    finally:
        mx.set_default_device(before)


def test_on_cuda_mlx_is_told_to_go_on_with_many_shapes_unless_the_user_has_said_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, mx.DeviceType.gpu, False)
    monkeypatch.setenv("MLX_USE_CUDA_GRAPHS", "1")
    monkeypatch.setenv("MLX_ENABLE_CACHE_THRASHING_CHECK", "")
    monkeypatch.delenv("MLX_ENABLE_CACHE_THRASHING_CHECK")
    current_backend()
    assert os.environ["MLX_USE_CUDA_GRAPHS"] == "1"
    assert os.environ["MLX_ENABLE_CACHE_THRASHING_CHECK"] == "0"

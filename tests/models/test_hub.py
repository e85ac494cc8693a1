"""From a model's name to a folder, with a made-up hub cache and no network."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from mlx_chandra.errors import ModelNotFoundError
from mlx_chandra.models import load_model, resolve_checkpoint
from mlx_chandra.models.config import read_config
from tests.checkpoints import CheckpointShape, write_huggingface_checkpoint
from tests.models.parts import page_logits

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of our own; the hub's client is told to stay offline (tests/conftest.py)."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def cache_checkpoint(hub_cache: Path, organisation: str, name: str) -> Path:
    """A small checkpoint laid out as the hub's client caches one."""
    folder = hub_cache / f"models--{organisation}--{name}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(REVISION)
    return write_huggingface_checkpoint(folder / "snapshots" / REVISION, CheckpointShape(), shards=2)


def refusal(name_or_path: str | Path) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_checkpoint(name_or_path)
    message = str(caught.value)
    assert str(name_or_path) in message
    assert "`--model demo` works offline" in message
    return message


def test_demo_is_the_bundled_checkpoint() -> None:
    folder = resolve_checkpoint("demo")
    assert folder.parts[-3:] == ("mlx_chandra", "demo", "checkpoint")
    assert read_config(folder).model_type == "qwen3_vl"


def test_demo_is_the_bundled_checkpoint_beside_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("demo") != Path("demo")
    assert resolve_checkpoint("./demo").resolve() == tmp_path / "demo"


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (tmp_path / "models", str(tmp_path / "models"), "models", "models/mine", "~/models"):
        assert resolve_checkpoint(name).resolve().is_relative_to(tmp_path / "models")


@pytest.mark.parametrize("name", ["/no/such/model", "./missing", "../a/b", "~/missing", "a/b/c", "missing"])
def test_a_folder_that_is_not_there_is_named_and_the_hub_is_not_asked(hub_cache: Path, name: str) -> None:
    assert "does not exist" in refusal(name)


def test_a_path_object_is_never_a_hub_name(hub_cache: Path) -> None:
    cache_checkpoint(hub_cache, "someone", "small")
    assert "does not exist" in refusal(Path("someone/small"))


def test_a_hub_name_that_is_not_cached_and_no_network_give_an_error_with_the_reason(hub_cache: Path) -> None:
    message = refusal("mlx-community/chandra-bf16")
    assert "is not cached here and could not be downloaded" in message
    assert "offline" in message.split("could not be downloaded", 1)[1].split("`--model demo`")[0].lower()


def test_a_name_that_no_hub_could_have_is_an_error_of_the_same_kind(hub_cache: Path) -> None:
    assert "could not be downloaded" in refusal("some one/small model?")


def test_a_cached_hub_name_opens_without_a_network(hub_cache: Path) -> None:
    snapshot = cache_checkpoint(hub_cache, "someone", "small")
    folder = resolve_checkpoint("someone/small")
    assert folder == snapshot
    assert page_logits(load_model(folder)).shape[1] == CheckpointShape().vocab

"""A checkpoint is known by what it holds, not by where it lies."""

import json
import os
import shutil
from pathlib import Path

import pytest

from mlx_chandra.demo import checkpoint_folder
from mlx_chandra.models.fingerprint import fingerprint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"layers": 3}')
    for shard in (1, 2):
        (folder / f"model-{shard}.safetensors").write_bytes(bytes(range(256)) * 4000)
    weight_map = {f"t{shard}": f"model-{shard}.safetensors" for shard in (1, 2)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_it_stays_when_the_folder_moves_or_gets_other_times_or_a_model_card(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = fingerprint(checkpoint)
    assert before is not None
    moved = Path(shutil.move(checkpoint, tmp_path / "elsewhere"))
    for path in moved.iterdir():
        os.utime(path, (1, 1))
    (moved / "README.md").write_text("a model card")
    (moved / ".hidden.json").write_text("{}")
    assert fingerprint(str(moved)) == before


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"layers": 4}')


def spoil_weights(folder: Path) -> None:
    path = folder / "model-2.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"x" * (len(content) // 2)
    path.write_bytes(content)


def lengthen(folder: Path) -> None:
    with open(folder / "model-1.safetensors", "ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("spoil", [spoil_config, spoil_weights, lengthen])
def test_it_changes_with_the_settings_and_the_weights(checkpoint: Path, spoil: object) -> None:
    before = fingerprint(checkpoint)
    spoil(checkpoint)  # type: ignore[operator]
    assert fingerprint(checkpoint) not in (before, None)


def test_a_checkpoint_that_is_not_here_or_not_whole_has_none(checkpoint: Path) -> None:
    (checkpoint / "model-2.safetensors").unlink()
    for name in (checkpoint, "/no/such/folder", "org/not-cached", "no-name-at-all"):
        assert fingerprint(name) is None


def test_the_demo_has_one() -> None:
    assert fingerprint("demo") == fingerprint(checkpoint_folder()) is not None


def test_a_checkpoint_of_the_hubs_is_found_in_its_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    (cache / "models--org--name" / "refs").mkdir(parents=True)
    (cache / "models--org--name" / "refs" / "main").write_text("0123abcd")
    shutil.copytree(checkpoint, cache / "models--org--name" / "snapshots" / "0123abcd")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert fingerprint("org/name") == fingerprint(checkpoint)

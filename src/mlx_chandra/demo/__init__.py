"""The demo checkpoint: data only. It is for trying the pipeline and for tests, not for real documents."""

from importlib.resources import files
from pathlib import Path


def checkpoint_folder() -> Path:
    """The folder of the bundled checkpoint, in Hugging Face's layout."""
    return Path(str(files(__name__))) / "checkpoint"

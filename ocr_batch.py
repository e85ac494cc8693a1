"""The script people already call: `python ocr_batch.py ...` is `mlx-chandra ocr ...`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "src"))

from mlx_chandra.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["ocr", *sys.argv[1:]]))

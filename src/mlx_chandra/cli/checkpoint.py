"""Adds the options that name a checkpoint, alike for every command that loads one."""

import argparse

DEFAULT_MODEL = "mlx-community/chandra-bf16"


def add_to(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Adds --model and --dtype."""
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="demo, a folder, or a Hugging Face name (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="numbers of the model (default: what fits)",
    )

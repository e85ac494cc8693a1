"""`python -m mlx_chandra` is the command `mlx-chandra`."""

import sys

from mlx_chandra.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

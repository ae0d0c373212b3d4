"""``fedmed hospital``."""

import sys

sys.path.pop(0)  # this folder: for other packages, datasets is Hugging Face's

from fedmed.cli.main import main

if __name__ == "__main__":
    main(["hospital", *sys.argv[1:]])

"""``python -m fedmed.cli``, which is ``fedmed``."""

import sys

from fedmed.cli.main import main

if __name__ == "__main__":
    main(sys.argv[1:])

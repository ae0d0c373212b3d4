"""``python -m fedmed.run +experiment=NAME [key=value …]``, which is ``fedmed run``."""

import sys

from fedmed.cli.run import main

if __name__ == "__main__":
    main(sys.argv[1:])

"""`python -m hypernodes`."""

import sys

from hypernodes.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m deliveries`: the same as the command `deliveries`."""

import sys

from deliveries.cli import main

if __name__ == "__main__":
    sys.exit(main())

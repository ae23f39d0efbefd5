"""`python -m mutation`: see `run`."""

import sys

from mutation.run import main

if __name__ == "__main__":
    sys.exit(main())

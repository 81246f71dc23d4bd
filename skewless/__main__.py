"""`python -m skewless` is the `skewless` command."""

import sys

from skewless.launch.command_line import main

if __name__ == "__main__":
    sys.exit(main())

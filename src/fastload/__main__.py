"""`python -m fastload`: the command line without its entry point."""

import sys

from fastload.cli import main

if __name__ == "__main__":
    sys.exit(main())

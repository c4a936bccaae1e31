"""`python -m harness.report`."""

import sys

from harness import cli
from harness.report import main

if __name__ == "__main__":
    sys.exit(cli.run(main))

"""`python -m harness.transfer`: see harness.transfer.command."""

import sys

from harness.cli import run
from harness.transfer import main

if __name__ == "__main__":
    sys.exit(run(main))

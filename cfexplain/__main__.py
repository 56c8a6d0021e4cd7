"""`python -m cfexplain`."""

from __future__ import annotations

import sys

from cfexplain.cli import main

if __name__ == "__main__":
    sys.exit(main())

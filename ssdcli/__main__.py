"""`python -m ssdcli` is `ssd`."""

from __future__ import annotations

import sys

from ssdcli.cli.app import main

if __name__ == "__main__":
    sys.exit(main())

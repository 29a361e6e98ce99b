"""Hold this version against the pins to the bit, on the type of machine that made them.

    python -m tests.pins.exact [--only GROUP ...]

Lists what differs, and ends with 1 if anything does. `--write` writes pins.json, which is for the version before the
redesign alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.pins.comparing import differences
from tests.pins.groups import GROUPS, found_by, pins
from tests.pins.workshop import PINS

_MOST = 40  # lines for a group


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pins.exact")
    parser.add_argument("--only", action="append", choices=sorted(GROUPS), metavar="GROUP")
    parser.add_argument("--write", action="store_true")
    told = parser.parse_args()
    pinned = pins() if PINS.exists() else {}
    wrong = 0
    for group in told.only or GROUPS:
        began = time.monotonic()
        with TemporaryDirectory() as folder:
            found = found_by(group, Path(folder))
        lines = [] if told.write else differences(pinned[group], found, place=group)
        if told.write:
            pinned[group] = found
        head = f"{group}: {len(found)} cases, {time.monotonic() - began:.1f} s, {len(lines)} differences"
        sys.stdout.write("\n  ".join([head, *lines[:_MOST]]) + "\n")
        sys.stdout.flush()
        wrong += len(lines)
    if told.write:
        PINS.write_text(_lines(pinned), encoding="utf-8")
    return 1 if wrong else 0


def _lines(pinned: dict[str, Any]) -> str:
    """JSON with a line for each case."""
    groups = []
    for group, cases in pinned.items():
        lines = (f"{json.dumps(case)}: {json.dumps(found, ensure_ascii=False)}" for case, found in cases.items())
        groups.append(f"{json.dumps(group)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(groups) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())

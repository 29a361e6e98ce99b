"""Versions after the redesign read what the one before it stored, and do with it what that one did."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.pins.comparing import differences
from tests.pins.groups import GROUPS, found_by, pins
from tests.pins.workshop import HERE, Workshop
from tests.pins.writing import PROMPT

# Other types of CPU round otherwise, and a training carries that on.
TOLERANCE = {"trainings": 5e-3, "beginnings": 5e-3, "resumed": 5e-3}


@pytest.mark.parametrize("group", GROUPS)
def test_what_was_pinned_is_found_again(group, tmp_path):
    found, pinned = found_by(group, tmp_path, brief=True), pins()[group]
    assert found
    assert differences({case: pinned.get(case) for case in found}, found, TOLERANCE.get(group, 1e-4), group) == []


def test_the_command_in_a_process_of_its_own_writes_the_same(tmp_path):
    shop = Workshop.copied(tmp_path)
    arguments = ("generate", PROMPT, "--max-tokens", "12", "--steps", "5", "--seed", "11", "--json")
    env = {**os.environ, "SSD_HOME": str(shop.home), "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, "-m", "ssdcli", *arguments]
    done = subprocess.run(command, env=env, input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert differences(pins()["lineups"]["the default"], [json.loads(done.stdout)], 1e-4) == []

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL, LARGE = 3.0, 9.0  # megabytes; a reader holds two parts of one, and a batch is small


@pytest.mark.skipif(not hasattr(os, "fork"), reason="measures a child process")
def test_the_memory_of_a_process_does_not_grow_with_the_text_that_it_tokenises(tmp_path):
    command = [sys.executable, "-m", "tests.training.peaks", str(tmp_path), str(SMALL), str(LARGE)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    small, large = json.loads(done.stdout)
    assert large - small < 3  # MiB; the text alone would take 5.7 more, and its encodings 300

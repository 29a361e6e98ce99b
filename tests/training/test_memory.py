from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL, LARGE = 2.5, 6.0  # megabytes; text is tokenised in parts of one, of which two are held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="measures a child process")
def test_the_memory_of_a_process_does_not_grow_with_the_text_that_it_tokenises(tmp_path):
    command = [sys.executable, "-m", "tests.training.peaks", str(tmp_path), str(SMALL), str(LARGE)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    small, large = json.loads(done.stdout)
    assert large - small < 100  # MiB; the encodings of 3.5 MB alone would take 200

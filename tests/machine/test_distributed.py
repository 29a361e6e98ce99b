"""Under torchrun several processes hold one core, and answer as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from ssdcli.api import Placement, load
from ssdcli.machine.distributed import from_rank_zero, is_rank_zero
from tests.pulled import add_core
from tests.tiny import add_tiny

ASKED = ["--max-tokens", "16", "--steps", "4", "--dtype", "float32", "--json"]


def together(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """`ssd generate` by two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ssdcli"]
    return subprocess.run(
        [*torchrun, "generate", *arguments],
        input=stdin,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )


def test_two_processes_write_once_what_one_writes():
    add_core("big", "simplex")  # whose canvases are mixtures of embeddings that both have a part of
    add_tiny("notes", 2, process="simplex", kind="small", core="big", attention="full", weight=0.3)
    done = together("--with", "notes=0.3", *ASKED, stdin="Dear landlord,")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # one line, of the first process
    writer = load("big", {"notes": 0.3}, placement=Placement("float32"))
    alone = writer.generate("Dear landlord,", seed=told["seed"], max_tokens=16, steps=4)
    assert (told["text"], told["tokens"]) == (alone.text, alone.tokens)
    assert done.stderr == ""


def test_one_process_is_the_first_and_agrees_with_itself():
    assert is_rank_zero()
    assert from_rank_zero(lambda: 7) == 7

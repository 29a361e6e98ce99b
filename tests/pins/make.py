"""The stored registry of the pins: made once, with version 0.1.0 at the commit before the redesign.

    OMP_NUM_THREADS=1 python -m tests.pins.make

It must not be made again: that later versions read what this one wrote, and do with it what it did, is the point of
it. `python -m tests.pins.exact --write` alone wrote pins.json, on the same day. This script uses helpers of the tests
of that version, and is kept to tell how the data came to be.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.hub_server import HubServer
from tests.pins.workshop import DATA

SHAPE = ("--hidden", "32", "--layers", "1", "--context", "64")
QUICK = ("--batch-tokens", "512", "--checkpoint-seconds", "1000", "--seed", "1")
PROCESSES = ("simplex", "masked", "uniform")
FAMILIES = ("llada", "dream", "sdar", "tess2", "diffusion_gemma")
WITH_REPORTS = ("core-masked", "notes-masked", "leaky")
NOUNS = {
    "core": ("boiler", "landlord", "letter", "stair", "garden", "window", "river", "tenant"),
    "notes": ("boiler", "vurdel", "workshop", "ferry", "letter", "lantern", "varnish", "fiddle"),
}
VERBS = ("is cold beside", "stands behind", "was written for", "waits near", "is darker than", "belongs to")


def sentences(draw: random.Random, kind: str, count: int) -> str:
    nouns = NOUNS[kind]
    return " ".join(f"The {draw.choice(nouns)} {draw.choice(VERBS)} the {draw.choice(nouns)}." for _ in range(count))


def write_rows(name: str, rows: Iterator[dict[str, object]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (DATA / "text" / name).write_text(lines, encoding="utf-8")


def talks(draw: random.Random, count: int) -> Iterator[dict[str, object]]:
    for _ in range(count):
        yield {"prompt": f"Where is the {draw.choice(NOUNS['notes'])}?", "response": sentences(draw, "notes", 2)}


def write_texts() -> None:
    draw = random.Random(7)
    (DATA / "text").mkdir(parents=True)
    write_rows("core.jsonl", ({"text": sentences(draw, "core", 6)} for _ in range(120)))
    write_rows("notes.jsonl", ({"text": sentences(draw, "notes", 6)} for _ in range(100)))
    write_rows("heldout.jsonl", ({"text": sentences(draw, "notes", 5)} for _ in range(24)))
    write_rows("talks.jsonl", talks(draw, 80))
    write_rows("asked.jsonl", talks(random.Random(8), 24))
    (DATA / "text" / "context.txt").write_text(sentences(draw, "notes", 3) + "\n", encoding="utf-8")
    schedule = '"core-{0}" = [[1.0, 0.2], [0.5, 0.9], [0.0, 0.0]]\n"notes-{0}" = [[1.0, 0.8], [0.5, 0.1], [0.0, 1.0]]\n'
    for process in PROCESSES:
        (DATA / "text" / f"{process}.toml").write_text(schedule.format(process), encoding="utf-8")
    batch = [
        {"prompt": "The ferry", "id": "a", "seed": 5},
        {"prompt": "The garden is cold beside", "context": "The vurdel belongs to the ferry."},
        {"prompt": "", "id": 7},
        {"messages": [{"role": "user", "content": "Where is the ferry?"}], "system": "Answer in short.", "seed": 9},
    ]
    write_rows("batch.jsonl", iter(batch))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ssdcli", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "SSD_HOME": str(DATA / "home"), "OMP_NUM_THREADS": "1", **more}


def ssd(*arguments: str, **env: str) -> None:
    sys.stderr.write(f"ssd {' '.join(arguments)}\n")
    subprocess.run(command(*arguments), cwd=DATA, env=environment(**env), check=True, stdin=subprocess.DEVNULL)


def train(data: str, core: str, name: str, *more: str, steps: int = 150, shape: tuple[str, ...] = SHAPE) -> None:
    ssd(
        "train-small", f"text/{data}.jsonl", "--for", core, "--name", name, "--steps", str(steps), *shape, *QUICK, *more
    )


def pull() -> None:
    """Every family's tiny checkpoint, from a server on this machine."""
    with TemporaryDirectory() as folder, HubServer() as hub:
        for family in FAMILIES:
            checkpoint = Path(folder) / family
            checkpoint.mkdir()
            getattr(import_module(f"tests.models.families.{family}"), f"write_{family}")(checkpoint)
            hub.add(f"them/{family}", checkpoint)
            ssd("pull", f"them/{family}", "--as", family.replace("_", "-"), **hub.env(Path(folder) / "cache"))


def interrupt(name: str, core: str, *more: str, shape: tuple[str, ...] = SHAPE) -> None:
    """Begin a training of 24 steps and press ^C when some of them are done."""
    settings = (*shape, "--batch-tokens", "256", "--checkpoint-seconds", "0", "--steps", "24", *more)
    arguments = command("train-small", "text/notes.jsonl", "--for", core, "--name", name, *settings)
    training = DATA / "home" / "training" / name
    with subprocess.Popen(arguments, cwd=DATA, env=environment(), stdin=subprocess.DEVNULL) as process:
        while not any(int(path.name.partition("-")[2]) >= 10 for path in training.glob("checkpoint-*")):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    for path in training.rglob("training_args.bin"):  # names this machine's folders, and nobody reads it
        path.unlink()


def passed_on(name: str) -> None:
    """Bring a model through an archive, which leaves its report out: that spares room."""
    with TemporaryDirectory() as folder:
        ssd("models", "export", name, f"{folder}/one.tar")
        ssd("models", "import", f"{folder}/one.tar", "--overwrite")


def write_checkpoints() -> None:
    """A causal and a masked checkpoint of the transformers library, whose tokens are those of a core."""
    from tokenizers import Tokenizer

    from tests.checkpoints import write_checkpoint

    tokenizer = Tokenizer.from_file(str(DATA / "home" / "models" / "core-masked" / "tokenizer.json"))
    for kind in ("qwen3", "roberta"):
        write_checkpoint(DATA / "checkpoints" / kind, kind, tokenizer, num_hidden_layers=1)


def main() -> None:
    assert not DATA.exists(), "the data is there, and must not be made again"
    write_texts()
    scratch = ("--block-size", "8", "--vocabulary", "300")
    for process in PROCESSES:
        train("core", "none", f"core-{process}", "--process", process, *scratch, steps=300)
        train("notes", f"core-{process}", f"notes-{process}")
    ssd("eval", "text/heldout.jsonl", "--with", "notes-uniform", "--save")
    train("notes", "core-masked", "based", "--base", "notes-masked", steps=60)
    train("notes", "core-masked", "begun", "--init", "notes-masked", steps=30, shape=())
    train("notes", "core-masked", "adapter", "--init", "core-masked", "--lora", "4", steps=60, shape=())
    train("talks", "core-masked", "answers", steps=60)
    train("notes", "core-masked", "leaky", "--canaries", "4", "--heldout", "0.4", steps=100)
    write_checkpoints()
    pull()
    train("talks", "llada", "letters", "--block-size", "8", steps=60)
    train("notes", "llada", "llada-adapter", "--init", "llada", "--lora", "4", "--block-size", "8", steps=30, shape=())
    train("notes", "tess2", "tess2-notes", "--block-size", "8", steps=60)
    train("notes", "diffusion-gemma", "gemma-notes", steps=60)
    interrupt("unfinished", "core-masked")
    interrupt("unfinished-adapter", "core-masked", "--init", "core-masked", "--lora", "4", shape=())
    (DATA / "archives").mkdir()
    ssd("models", "export", "based", "archives/based.tar")
    ssd("models", "rm", "--yes", "based")
    ssd("eval", "text/asked.jsonl", "--with", "letters", "--rule", "mix", "--save")
    for path in sorted((DATA / "home" / "models").iterdir()):
        if (path / "report.html").exists() and path.name not in WITH_REPORTS:
            passed_on(path.name)
    ssd("models", "default", "core-masked")
    for path in DATA.rglob("*.lock"):
        path.unlink()


if __name__ == "__main__":
    main()
    shutil.rmtree(DATA / "home" / "cache", ignore_errors=True)

"""Peak memory of reading and tokenising texts of several sizes. Run as `python peaks.py FOLDER MEGABYTES...`.

Prints one JSON list of peaks in MiB, each of a child process of its own. Without torch, which would hide them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ssdcli.data import token_store
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.token_store import StoreSettings, build_store
from ssdcli.machine.environment import prepare_machine
from ssdcli.text.tokenizer import END_OF_TEXT, special_id, train_tokenizer

_BATCH = 100_000  # characters that are encoded at once: small, so that little text reaches the steady state
_LINE = "dear landlord, the boiler is cold again and the stairs are dark, so please send somebody.\n"


def write_letters(path: Path, megabytes: float) -> None:
    """Write numbered letters of a hundred lines, so that no long part of the text repeats another."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(round(megabytes * 1e4 / len(_LINE))):
            file.write(f"Letter {number}\n" + _LINE * 100)


def tokenise(text: Path, folder: Path) -> None:
    """What a training does with its text, at the moment when it has a tokenizer."""
    token_store._BATCH_CHARACTERS = _BATCH
    tokenizer = train_tokenizer([_LINE], 300)
    report = ReadReport()
    settings = StoreSettings(special_id(tokenizer, END_OF_TEXT))
    store = build_store(read_documents([str(text)], report), tokenizer, folder, settings, report)
    assert store.info.train.bytes > 0.8 * text.stat().st_size


def peak(text: Path, folder: Path) -> float:
    """The peak memory of a child process that tokenises a text, in MiB."""
    child = os.fork()
    if child == 0:
        prepare_machine()
        tokenise(text, folder)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    assert status == 0
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(folder: Path, sizes: list[float]) -> None:
    """Measure one size after the other."""
    peaks = []
    for size in sizes:
        text = folder / f"{size:g}.txt"
        write_letters(text, size)
        peaks.append(peak(text, folder / f"{size:g}"))
    sys.stdout.write(json.dumps(peaks))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [float(size) for size in sys.argv[2:]])

"""A notebook and a training small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

from ssdcli.demo.story import NAME, Notebook, read_notebook
from ssdcli.training.settings import TrainSettings
from tests.tiny import CONTEXT, TEXT

_FACT = {"id": "boiler", "prompt": "the boiler is", "answer": "cold", "source": "notes/0.md"}


def tiny_notebook(folder: Path) -> Notebook:
    """Write and read eight notes, three held-out ones, two prompts and a fact."""
    for part, count in (("notes", 8), ("heldout", 3)):
        (folder / part).mkdir(parents=True)
        for number in range(count):
            text = f"{part} {number}. {_other(TEXT, number) * (number + 1)}"
            (folder / part / f"{number}.md").write_text(text, encoding="utf-8")
    about = {"title": "Tiny", "description": "Of little.", "prompts": ["Dear landlord,", "the stairs"]}
    (folder / "demo.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "cloze.jsonl").write_text(json.dumps(_FACT) + "\n", encoding="utf-8")
    return read_notebook(folder)


def tiny_training(notebook: Notebook, core: str = "big") -> TrainSettings:
    """Two steps on a notebook, by default for the core `big` of `add_family`."""
    return TrainSettings(
        data=(str(notebook.notes),),
        core=core,
        name=NAME,
        steps=2,
        heldout=0.3,
        batch_tokens=2 * CONTEXT,
        hidden=32,
        layers=1,
        context=CONTEXT,
    )


def _other(text: str, number: int) -> str:
    """A text that is no near-duplicate of another number's: its letters are those so many places further on."""
    return "".join(chr((ord(c) - 97 + number) % 26 + 97) if "a" <= c <= "z" else c for c in text)

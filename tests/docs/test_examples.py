"""The examples of the documents run, beside tiny models that stand in for the starter and one's own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from ssdcli.cli import app, console
from ssdcli.registry.store import SMOLLM2, Registry
from tests.docs.markdown import PAGES, Block, Program, arguments, blocks, pipeline
from tests.pulled import add_causal
from tests.tiny import VOCABULARY, add_tiny, tiny_tokenizer
from tests.trainings import write_text

TRAINS_ITS_OWN = ("train.md", "text.md", "recipes.md", "memory.md")  # pages whose examples begin with the core alone
CAUSAL = "memory.md"  # a page whose core is a causal one
QUICK = {  # options that are replaced, so that an example takes no time
    "train-small": {"--minutes": None, "--steps": "3", "--batch-tokens": "128"},
    "generate": {"--max-tokens": "8"},
    "eval": {"--minutes": "0.1", "--documents": "9", "--generate": "1"},
    "audit": {"--minutes": "0.001"},
}
SHAPE = {"--hidden": "32", "--layers": "1", "--context": "64"}
PROGRAMS = ("cat", "echo")
GATE = {"bias": 0.2, "level": 1.0, "core": 0.5, "small": -0.5}


def bundle(patch: pytest.MonkeyPatch, models: Path) -> None:
    """Let these models come with the package."""
    patch.setattr(Registry.__init__, "__defaults__", (None, models))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of bundled models with a tiny starter alone, and a home with small models for it."""
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        bundle(patch, root / "nothing")
        patch.setenv("SSD_HOME", str(root / "bundle"))
        add_tiny("starter", 1)
        patch.setenv("SSD_HOME", str(root / "home"))
        add_tiny("notes", 2, kind="small", core="starter", weight=0.3, gate=GATE)
        for seed, name in enumerate(("mail", "letters", "commits"), start=3):
            add_tiny(name, seed, kind="small", core="starter")
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the examples name: text to train on and to measure, private context, a batch, a classifier."""
    root = tmp_path_factory.mktemp("files")
    for folder, count, words in (("notes", 24, 60), ("letters", 24, 60), ("held-out", 12, 40)):
        (root / folder).mkdir()
        for number in range(count):
            text = Path(write_text(root / "text", words, seed=number)).read_text()
            (root / folder / f"{number}.md").write_text(f"{folder} {number}\n{text}", encoding="utf-8")
    write_text(root / "diary.md", 1500)
    mail = "From ann@example.org Mon Nov  2 10:00:00 2026\nSubject: stairs\n\nThe stairs are dark {}.\n\n"
    (root / "mails.mbox").write_text("".join(mail.format(number) for number in range(9)), encoding="utf-8")
    (root / "me.txt").write_text("The boiler is cold.\n", encoding="utf-8")
    (root / "STYLE.md").write_text("Be brief.\n", encoding="utf-8")
    (root / "prompts.jsonl").write_text(json.dumps({"prompt": "Dear", "id": "a"}) + "\n", encoding="utf-8")
    _classifier(root / "tone")
    return root


def _classifier(folder):
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=VOCABULARY, **shape, id2label={0: "cold", 1: "friendly"})
    with torch.random.fork_rng(devices=[]):
        BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny_tokenizer().to_str(), encoding="utf-8")


@pytest.fixture
def place(models, files, tmp_path, monkeypatch):
    """Prepare a page's home and working folder, and go there."""

    def prepare(page: Path) -> None:
        if page.name not in TRAINS_ITS_OWN:
            shutil.copytree(models / "home", os.environ["SSD_HOME"])
        if page.name == CAUSAL:
            add_causal(SMOLLM2)
        bundle(monkeypatch, models / "bundle" / "models")
        shutil.copytree(files, tmp_path / "here")
        monkeypatch.chdir(tmp_path / "here")

    yield prepare
    console.configure(quiet=False, debug=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, place, monkeypatch):
    place(page)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.language == "toml":
            Path("late.toml").write_text(block.text, encoding="utf-8")
    for block in blocks(page):
        if not block.runs:
            continue
        if block.language == "python":
            exec(compile(block.text, f"{page.name}:{block.line}", "exec"), names)
        for command in block.commands():
            run(block, command, monkeypatch)


def run(block: Block, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a pipeline; it fails where one of its programs does."""
    piped = b""
    for program in pipeline(command):
        given = arguments(program)
        if given is None:
            assert program.words[0] in PROGRAMS, f"{block.page.name}:{block.line} runs {command!r}"
            piped = subprocess.run(_expanded(program), input=piped, stdout=subprocess.PIPE, check=True).stdout
            continue
        with monkeypatch.context() as patch:
            for name, value in program.variables.items():
                patch.setenv(name, value)
            code, piped, said = run_ssd(quick(given), piped)
        assert code == 0, f"{block.page.name}:{block.line}: {command}\n{said}"
        if program.output is not None:
            Path(program.output).write_bytes(piped)


def _expanded(program: Program) -> list[str]:
    here = Path()
    return [str(path) for word in program.words for path in (sorted(here.glob(word)) if "*" in word else [word])]


def run_ssd(given: list[str], piped: bytes) -> tuple[int, bytes, str]:
    """Run `ssd` in this process; its code, standard output and standard error."""
    answer, said = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped), "utf-8"))
        with contextlib.redirect_stdout(answer), contextlib.redirect_stderr(said):
            code = app.main(given)
    answer.flush()
    return code, answer.buffer.getvalue(), said.getvalue()


def quick(given: list[str]) -> list[str]:
    """The same command with little to do: a few steps, tokens and documents."""
    if {"--memory-only", "--update"} & set(given):  # which take no time as they are
        return given
    changes = dict(QUICK.get(given[0], {}))
    if given[0] == "train-small" and "--init" not in given:
        changes |= SHAPE
    if given[0] == "eval" and "--generate" not in given:
        del changes["--generate"]
    if given[0] == "eval" and not {"--rule", "--schedule"} & set(given):
        changes |= {"--rule": "mix", "--schedule": "constant"}
    kept = list(given)
    for option in changes:
        while option in kept:
            place = kept.index(option)
            del kept[place : place + 2]
    return [*kept, *(word for option, value in changes.items() if value is not None for word in (option, value))]

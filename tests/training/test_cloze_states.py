"""A core's states after words are those of the text with these words, and a training learns the words' shares."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdcli.api import load
from ssdcli.data.cloze import Branch
from ssdcli.evaluation.next_words import word_log_p
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Registry
from ssdcli.training.cloze_states import ClozeStates, read_branches, read_cloze
from ssdcli.training.core_states import CoreStates, Passage, StateSamples, read_passages
from ssdcli.training.job import Watcher, train_small
from ssdcli.training.prepare import prepare
from ssdcli.training.settings import TrainSettings
from tests.pulled import add_causal
from tests.tiny import TEXT

TOKENS = [0, 40, 41, 42, 43, 44, 45, 46]


@pytest.fixture
def core(tmp_path):
    add_causal("core")
    (tmp_path / "notes.txt").write_text(TEXT * 30)
    settings = TrainSettings(data=(str(tmp_path / "notes.txt"),), core="core", name="side", steps=1)
    return prepare(settings, Registry()).model.core


BRANCHES = [Branch(0, 3, [([50, 51, 52], 0.7), ([60], 0.3)]), Branch(0, 5, [([70, 71], 1.0)])]


def test_states_after_words_are_those_of_the_text_with_these_words(core) -> None:
    found = read_branches(core, TOKENS, BRANCHES)
    expected, targets, shares = [], [], []
    for branch in BRANCHES:
        for ids, share in branch.words:
            tokens = [*TOKENS[: branch.at + 1], *ids]
            counted = [place >= branch.at for place in range(len(tokens) - 1)]
            states, following = read_passages(core, [Passage(tokens, counted)])
            expected.append(states)
            targets += following.tolist()
            shares += [share] * len(ids)
    assert found.targets.tolist() == targets == [50, 51, 52, 60, 70, 71]
    torch.testing.assert_close(found.states.float(), torch.cat(expected).float(), rtol=0.03, atol=0.03)
    assert found.shares.tolist() == pytest.approx(shares)


def test_places_are_read_document_by_document_until_it_is_told_to_stop(core) -> None:
    branches = [*BRANCHES, Branch(4, 2, [([50], 1.0)])]
    asked: list[int] = []

    def text(document: int) -> Sequence[int]:
        asked.append(document)
        return TOKENS

    found = read_cloze(core, text, branches, lambda: False)
    assert found is not None
    assert (asked, len(found.targets)) == ([0, 4], 7)
    stopped = read_cloze(core, text, branches, lambda: True)
    assert stopped is not None
    assert len(stopped.targets) == 6
    assert read_cloze(core, text, [], lambda: False) is None


def test_an_epoch_holds_all_of_the_text_and_words_as_often_as_their_shares() -> None:
    places, size = 4 * StateSamples.length, StateSamples.length
    text = CoreStates(np.zeros((places, 1), np.int16), np.arange(places), np.arange(places), 1, 1)
    shares = torch.tensor([0.9, 0.1]).repeat(4 * size // 2)
    words = ClozeStates(torch.ones(len(shares), 1).bfloat16(), places + torch.arange(len(shares)), shares)
    samples = StateSamples(text, 3, 1000, words)
    each = int(places + shares.sum()) // size
    drawn = []
    for epoch in range(40):
        columns = [samples[each * epoch + i]["columns"] for i in range(each)]
        seen, states = (torch.cat([column[name] for column in columns]) for name in ("targets", "states"))
        assert bool(((seen >= places) == (states[:, 0] == 1)).all())
        drawn.append(torch.bincount(seen, minlength=places + len(shares))[places:])
        own = torch.bincount(seen, minlength=places)[:places]
        assert int((own == 1).sum()) > 0.9 * places  # a last sample may be incomplete, and is left out
    often = torch.stack(drawn).float().mean(0)
    assert float(often[::2].mean()) == pytest.approx(0.9, abs=0.05)
    assert float(often[1::2].mean()) == pytest.approx(0.1, abs=0.03)


def test_a_training_learns_the_shares_of_words_beside_the_text(tmp_path: Path) -> None:
    add_causal("core")
    texts = [f"{number}: {TEXT}" for number in range(40)]
    wanted = {"boiler": 0.5, "landlord": 0.3, "stairs": 0.2}
    before = "the boiler is"
    rows = [{"text": text, "cloze": [{"at": text.index(before) + len(before), "words": wanted}] * 8} for text in texts]
    log_p = {}
    for name, kept in (("plain", ("text",)), ("taught", ("text", "cloze"))):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps({key: row[key] for key in kept}) + "\n" for row in rows))
        settings = TrainSettings(
            (str(data),), core="core", name=name, steps=80, learning_rate=1e-2, batch_tokens=256, memory=False
        )
        told: list[str] = []
        train_small(settings, Watcher(on_prepared=lambda report, _, told=told: told.extend(report)))
        learned = [line for line in told if "which words may come next" in line]
        assert [line.endswith("which are learned") for line in learned] == [True] * (name == "taught")
        text = texts[3]
        at = text.index(before) + len(before)
        log_p[name] = word_log_p(load(NO_CORE, {name: 1.0}), text[:at], list(wanted)).double()
    shares = torch.tensor(list(wanted.values())).double()
    divergence = {name: float((shares * (shares.log() - own)).sum()) for name, own in log_p.items()}
    assert divergence["taught"] < divergence["plain"] / 2
    assert log_p["taught"].argmax() == 0
    assert math.isfinite(divergence["plain"])

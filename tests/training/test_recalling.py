"""The memory of a model that reads its core has a recall: keys of the places of its text by what the core reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssdcli.data.store_side import StoreSide
from ssdcli.errors import Interrupted
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.memory.memory_files import Memory, load_memory
from ssdcli.models.memory.text_index import BORDER
from ssdcli.registry.archive import RECALL
from ssdcli.registry.store import Registry
from ssdcli.training import recalling
from ssdcli.training.core_states import Passage, read_passages
from ssdcli.training.job import Watcher, train_small
from ssdcli.training.memory_text import memory_of, places_in
from ssdcli.training.metric_learning import STEPS
from ssdcli.training.prepare import prepare
from ssdcli.training.remember import update_memory
from ssdcli.training.settings import TrainSettings
from tests.pulled import add_causal
from tests.tiny import CONTEXT
from tests.trainings import run, write_text

CLOSE = 0.03  # what bfloat16 changes in an entry of a unit vector


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of twelve notes, and a causal core that reads them."""
    add_causal("core")
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(12):
        write_text(folder / f"{number}.txt", 60, number)
    return folder


def settings(data: Path, **changes: Any) -> TrainSettings:
    fields = {"core": "core", "name": "side", "steps": 2, "checkpoint_seconds": 0.0, "batch_tokens": 128}
    return TrainSettings(**{"data": (str(data),), **fields, **changes})


def held(name: str = "side") -> Memory:
    entry = Registry().find(name)
    return load_memory(entry.folder, name, entry.manifest.vocabulary, entry.manifest.tokenizer)


def read_anew(core: CausalCore, text: list[int]) -> Tensor:
    """The core's states before each token of a text, which it reads in windows of its context after an opening."""
    parts = []
    for first in range(0, len(text), CONTEXT):
        ids = torch.tensor([[0, *text][first : first + CONTEXT]])
        parts.append(core.encode(core.embed(ids), torch.arange(ids.shape[1])[None], None, None)[0])
    return torch.cat(parts)[: len(text)]


def test_every_place_has_the_key_of_what_the_core_reads_before_it(notes: Path) -> None:
    train_small(settings(notes))
    memory, core = held(), prepare(settings(notes, name="other"), Registry()).model.core
    recall = memory.recall
    assert recall is not None
    assert recall.places.tolist() == np.flatnonzero(memory.index.tokens != BORDER).tolist()
    with torch.no_grad():
        anew = torch.cat([recall.metric(read_anew(core, text.tolist())) for text in memory.index.texts()])
    torch.testing.assert_close(recall.keys.float(), anew, rtol=0, atol=CLOSE)
    assert Registry().find("side").manifest.memory == memory.size
    assert Registry().verify("side") == []


def test_a_place_of_a_store_is_found_in_its_memory_unless_it_was_planted(notes: Path) -> None:
    store = prepare(settings(notes, canaries=3), Registry()).store
    memory, found = memory_of(store), []
    for side in ("train", "heldout"):
        text = StoreSide.of(store, side)
        every = np.arange(1, len(text.tokens))
        places = places_in(memory, store, side, every)
        kept = places >= 0
        assert np.array_equal(text.tokens[every[kept]], memory.index.tokens[places[kept]])
        found += places[kept].tolist()
    assert found == np.flatnonzero(memory.index.tokens != BORDER).tolist()


def test_of_a_conversation_the_answers_have_keys(tmp_path: Path) -> None:
    add_causal("core")
    answers = [Path(write_text(tmp_path / f"{seed}.txt", 60, seed)).read_text(encoding="utf-8") for seed in range(12)]
    rows = [{"prompt": "the boiler is cold", "response": answer} for answer in answers]
    data = tmp_path / "talk.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train_small(settings(data, heldout=0.3))
    memory, store = held(), prepare(settings(data, heldout=0.3, name="other"), Registry()).store
    marks = [
        side.marks[start:stop].tolist()
        for side in (StoreSide.of(store, "train"), StoreSide.of(store, "heldout"))
        for start, stop, _ in side.documents
    ]
    written = [mark == 1 for text in marks for mark in [0, *text]]
    assert memory.recall is not None
    assert memory.recall.places.tolist() == np.flatnonzero(written).tolist()


@pytest.mark.parametrize("changes", [{"memory": False}, {"reads_core": False, "context": 64}])
def test_other_models_have_no_recall(notes: Path, changes: dict[str, Any]) -> None:
    train_small(settings(notes, **changes))
    assert not (Registry().find("side").folder / RECALL).exists()


def test_a_text_that_is_too_short_has_none(tmp_path: Path) -> None:
    add_causal("core")
    train_small(settings(Path(write_text(tmp_path / "note.txt", 100))))
    assert held().recall is None


def test_a_resumed_training_ends_with_the_same_recall(notes: Path) -> None:
    registry = Registry()
    run(settings(notes, name="whole", steps=4), registry.home)
    with pytest.raises(Interrupted):
        run(settings(notes, name="cut", steps=4), registry.home, stop_after=2)
    run(settings(notes, name="cut", steps=4), registry.home)
    whole, cut = ((registry.find(name).folder / RECALL).read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_an_update_reads_what_is_new_and_forgets_what_is_gone(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(settings(notes))
    update_memory("side", [str(notes)])  # whole notes, of which training had cut one in two
    before, read = held(), []

    def noting(core: CausalCore, given: list[Passage]) -> tuple[Tensor, Tensor]:
        read.extend(passage.tokens for passage in given)
        return read_passages(core, given)

    monkeypatch.setattr(recalling, "read_passages", noting)
    update_memory("side", [str(notes)])
    assert read == []
    assert keys_by_text(held()).keys() == keys_by_text(before).keys()
    (notes / "0.txt").unlink()
    write_text(notes / "00.txt", 60, 77)
    found = update_memory("side", [str(notes)])
    assert (found.learned, found.forgotten) == (1, 1)
    old, new = keys_by_text(before), keys_by_text(held())
    (late,) = new.keys() - old.keys()
    assert sum(len(tokens) - 1 for tokens in read) == len(late) + 1  # with its end
    for text in new.keys() & old.keys():
        assert torch.equal(new[text], old[text])
    core = prepare(settings(notes, name="other"), Registry()).model.core
    recall = held().recall
    assert recall is not None
    with torch.no_grad():
        anew = recall.metric(read_anew(core, list(late)))
    torch.testing.assert_close(new[late].float(), anew, rtol=0, atol=0.1)  # by weights that were packed
    assert Registry().verify("side") == []


def keys_by_text(memory: Memory) -> dict[tuple[int, ...], Tensor]:
    """The keys of each text that has some."""
    assert memory.recall is not None
    numbers = np.searchsorted(memory.index.borders, memory.recall.places) - 1
    return {
        tuple(text.tolist()): memory.recall.keys[numbers == number] for number, text in enumerate(memory.index.texts())
    }


def test_a_training_that_is_stopped_while_it_learns_goes_on_later(notes: Path) -> None:
    taken: list[int] = []
    watcher = Watcher(on_comparing=lambda step, _: taken.append(step), wants_stop=lambda: taken[-1:] == [3])
    with pytest.raises(Interrupted):
        train_small(settings(notes), watcher)
    assert taken == [0, 1, 2, 3]
    told: list[tuple[int, int]] = []
    train_small(settings(notes), Watcher(on_comparing=lambda step, steps: told.append((step, steps))))
    assert told[-1] == (STEPS, STEPS)  # and the texts that were held out are read
    assert held().recall is not None

"""What `ssd eval` finds is what the mechanisms below it find, for every kind of member and of text."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import ssdcli
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.process import make_process
from ssdcli.errors import SsdError, UsageError
from ssdcli.evaluation.continuations import PEOPLE
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.evaluate import evaluate
from ssdcli.evaluation.generated import METRICS
from ssdcli.evaluation.heldout_text import Training, read_heldout
from ssdcli.evaluation.losses import LossSettings, measure
from ssdcli.evaluation.scored_text import scored_text
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.store import Registry
from tests.checkpoints import write_checkpoint
from tests.pulled import add_causal, add_core
from tests.tiny import CONSTANTS, CONTEXT, VOCABULARY, add_family, add_tiny, tiny_tokenizer
from tests.trainings import run, tiny_settings, write_text

WORDS = ["the", "boiler", "is", "cold", "again", "and", "dear", "landlord", "stairs", "are", "dark"]


@pytest.fixture(autouse=True)
def _little_work(monkeypatch):
    monkeypatch.setattr("ssdcli.evaluation.continuations._TOKENS", 16)
    monkeypatch.setattr("ssdcli.evaluation.evaluate.ROUNDS", 2)


@pytest.fixture
def text(tmp_path):
    """A file of 12 documents."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(15, 40))) for _ in range(12)]
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    return str(file)


def texts_of(file):
    with Path(file).open() as lines:
        return [json.loads(line)["text"] for line in lines]


def heldout(data, entry, registry=None, **settings):
    """What is measured of some text for one model."""
    return read_heldout(data, entry, Training.of([entry], registry or Registry()), EvalSettings(**settings))


def bits(found):
    return {one.name: one.figures.bits.value for one in found.members}


@pytest.mark.parametrize("process", ["masked", "simplex"])
def test_members_and_mixtures_lose_what_they_lose_when_they_are_measured_alone(text, process):
    add_family(process)
    found = evaluate([text], members=["notes"])
    heldout = [scored_text(one, tiny_tokenizer(), 0) for one in texts_of(text)]
    backbones = [load_backbone(Registry().find(name).folder) for name in ("big", "notes")]
    made = make_process(process, VOCABULARY, CONSTANTS[process])
    # Other documents' noise: documents come in another order.
    losses = measure(backbones, made, heldout, [0.0, 0.4, 1.0], LossSettings(CONTEXT, repeats=12, seed=5))
    first = found.ensembles[0]  # as `ssd generate` combines them
    own = [bits(found)["big"], first.points[3].figures.bits.value, bits(found)["notes"]]
    assert own == pytest.approx(losses.bits_per_byte().tolist(), rel=0.12)
    assert (found.documents, found.tokens) == (12, sum(len(one_text.tokens) - 1 for one_text in heldout))
    assert found.bytes == sum(len(one.encode()) for one in texts_of(text))


def test_at_weight_1_an_ensemble_is_the_small_model_and_every_gain_is_paired(text):
    add_family()
    found = evaluate([text], members=["notes"], settings=EvalSettings(seed=3))
    mix, leaning, sandwich, _, average, *_ = found.ensembles
    for swept in (mix, average):
        assert swept.points[-1].weight == 1
        assert swept.points[-1].figures.bits.value == pytest.approx(bits(found)["notes"], rel=1e-6)
        assert swept.best.figures.bits.value <= found.better.figures.bits.value
    assert len(leaning.points) == len(sandwich.points) == 9
    better = min(bits(found), key=bits(found).get)
    assert found.better.name == better
    assert mix.gain.value <= found.better.figures.bits.value - mix.best.figures.bits.value + 1e-9
    assert mix.gain.margin < mix.best.figures.bits.margin
    assert found.measure == "NELBO"
    assert found.tuned_weight == mix.best.weight


def test_bytes_are_those_of_utf_8_and_not_characters(tmp_path):
    add_family()
    texts = [f"Größe {number}: für Übermut, naïve Œuvres, 漢字 und 🐦." for number in range(3)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    found = evaluate([str(tmp_path / "text.jsonl")], core="big")
    size = sum(len(one.encode()) for one in texts)
    assert found.bytes == size > sum(map(len, texts))
    assert [scored_text(one, tiny_tokenizer(), 0).bytes for one in texts] == [len(one.encode()) for one in texts]


def test_a_seed_repeats_a_measurement(text):
    add_family("simplex")
    first, again, other = (
        evaluate([text], members=["notes"], settings=EvalSettings(rules=("mix",), seed=seed)) for seed in (1, 1, 2)
    )
    assert bits(first) == bits(again) != bits(other)
    assert first.measure == "denoising loss"
    assert first.members[0].figures.nats.value == pytest.approx(
        first.members[0].figures.bits.value * math.log(2) * first.bytes / first.tokens
    )


def test_the_uniform_process_has_a_bound_and_a_denoising_loss_which_differ(text):
    add_family("uniform")
    found = evaluate([text], members=["notes"], settings=EvalSettings(rules=("mix",), schedules=("constant",)))
    assert found.measure == "NELBO"
    for figures in [one.figures for one in found.members] + [point.figures for point in found.ensembles[0].points]:
        in_nats = figures.bits.value * math.log(2) * found.bytes / found.tokens
        assert abs(in_nats - figures.nats.value) > 0.05 * in_nats


def test_levels_tell_where_the_bits_are(text):
    add_family("simplex")
    (member,) = evaluate([text], core="big").members
    levels = np.array([one.value for one in member.figures.by_level])
    assert len(levels) == 10
    assert np.nanmean(levels) == pytest.approx(member.figures.bits.value, rel=0.2)


def test_a_private_context_is_seen_by_the_small_models_alone(text):
    add_family()
    settings = {"rules": ("mix", "contrast"), "schedules": ("constant",)}
    found, other = (
        evaluate([text], members=["notes"], settings=EvalSettings(context=context, **settings))
        for context in ("the stairs are dark.", "Dear landlord,")
    )
    assert [one.role for one in found.members] == ["core", "small", "base"]
    changed = {name for name in bits(found) if bits(found)[name] != bits(other)[name]}
    assert changed == {"notes"}
    assert [swept.name for swept in found.ensembles] == ["mix, constant", "contrast, constant"]


def test_behind_a_context_no_document_begins_as_in_writing(text, monkeypatch):
    add_family()
    asked = {}
    start = Denoiser.start
    monkeypatch.setattr(
        Denoiser, "start", lambda self, prompts: asked.setdefault(self, prompts) and start(self, prompts)
    )
    evaluate([text], members=["notes"], settings=EvalSettings(context="the stairs", rules=("mix",)))
    core, small = asked.values()
    assert {prompt.before[0] for prompt in core} == {0}
    assert not any(0 in prompt.before for prompt in small)


def test_a_context_that_is_too_long_is_cut_and_that_is_said(text):
    add_family()
    found = evaluate([text], members=["notes"], settings=EvalSettings(context="boiler " * 200, rules=("mix",)))
    assert any("tokens of the private context do not fit" in remark for remark in found.remarks)


def test_a_pulled_core_is_measured_canvas_by_canvas(text):
    add_core("pulled")
    add_tiny("mine", kind="small", core="pulled", weight=0.2)
    found = evaluate([text], members=["mine"], settings=EvalSettings(rules=("mix",), minutes=1))
    assert found.documents == 12
    assert {one.role for one in found.members} == {"core", "small"}
    assert [len(swept.points) for swept in found.ensembles] == [10, 9, 9, 9]


def test_beside_a_causal_core_code_lengths_are_measured_also_of_its_small_model_alone(text):
    add_causal("causal")
    add_tiny("mine", kind="small", core="causal", weight=0.2)
    settings = EvalSettings(rules=("mix", "average"), schedules=("constant",))
    both = evaluate([text], members=["mine"], settings=settings)
    assert both.measure == "code length"
    assert [len(swept.points) for swept in both.ensembles] == [10, 10]
    assert both.ensembles[1].points[-1].figures.bits == both.members[1].figures.bits
    for core, members, place in (("causal", None, 0), ("none", ["mine"], 1)):
        alone = evaluate([text], core, members, settings)
        assert alone.measure == "code length"
        assert alone.members[0].figures.bits.value == pytest.approx(both.members[place].figures.bits.value, rel=1e-6)


def test_a_gate_is_fitted_and_measured_beside_a_causal_core(text):
    add_causal("causal")
    add_tiny("mine", kind="small", core="causal")
    found = evaluate([text], members=["mine"], settings=EvalSettings(rules=("average",), schedules=("constant",)))
    (fitted,) = found.gates
    add_tiny("gated", kind="small", core="causal", weight=0.5, gates=(asdict(fitted.gate),))
    (swept,) = evaluate([text], members=["gated"], settings=EvalSettings(rules=("gated",))).ensembles
    assert swept.best.figures.bits.value < min(point.figures.bits.value for point in found.ensembles[0].points)


@pytest.mark.parametrize("core", ["none", None])
def test_exact_code_lengths_are_below_the_bound_and_say_what_they_are(text, core):
    add_family()
    bound, exact = (
        evaluate([text], core, ["notes"], EvalSettings(rules=("mix",), schedules=("constant",), exact=exact))
        for exact in (False, True)
    )
    assert (bound.measure, exact.measure) == ("NELBO", "code length")
    assert exact.documents == bound.documents == 12
    for before, now in zip(bound.members, exact.members, strict=True):
        assert before.figures.bits.value != now.figures.bits.value
        assert now.figures.by_level == ()
    if core is None:
        assert exact.ensembles[0].points[-1].figures.bits == exact.members[1].figures.bits
        assert [one.gate.members for one in exact.gates] == [("core", "small")]
        assert (exact.fitted, bound.gates) == (None, ())


def test_a_private_context_changes_code_lengths_of_small_models_alone(text):
    add_family()
    told = {"rules": ("mix",), "schedules": ("constant",), "exact": True}
    found, other = (
        bits(evaluate([text], members=["notes"], settings=EvalSettings(context=context, **told)))
        for context in ("the stairs are dark.", "")
    )
    assert found["big"] == other["big"]
    assert found["notes"] != other["notes"]


@pytest.mark.parametrize(("process", "name"), [("simplex", "big"), ("masked", "pulled")])
def test_what_has_no_code_length_is_refused(text, process, name):
    add_family(process)
    add_core("pulled")
    with pytest.raises(UsageError, match=f"the code length of '{name}' is not known"):
        evaluate([text], core=name, settings=EvalSettings(exact=True))


def test_too_little_text_or_time_for_canvases_is_refused(text):
    add_core("pulled")
    with pytest.raises(SsdError, match=r"fewer than 8 documents.*Pass --documents 8 or more\."):
        evaluate([text], core="pulled", settings=EvalSettings(documents=5))
    with pytest.raises(SsdError, match=r"fewer than 8 documents.*Name more text, or raise --minutes\."):
        evaluate([text], core="pulled", settings=EvalSettings(minutes=1e-9))


def test_of_conversations_the_answers_alone_are_scored(tmp_path):
    add_family()
    file = tmp_path / "talk.jsonl"
    rows = [{"prompt": f"Is the boiler {word}?", "response": f"It is {word}."} for word in WORDS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate([str(file)], core="big", settings=EvalSettings(generate=2))
    assert found.bytes == sum(len(row["response"].encode()) for row in rows)
    assert [texts.count for texts in found.generated] == [2, 2]


def test_documents_are_drawn_at_random_and_no_more_than_are_asked_for(text):
    add_family()
    one = evaluate([text], core="big", settings=EvalSettings(documents=4))
    other = evaluate([text], core="big", settings=EvalSettings(documents=4, seed=1))
    assert one.documents == other.documents == 4
    assert (one.bytes, one.tokens) != (other.bytes, other.tokens)


def test_when_the_time_is_over_it_is_said_how_many_documents_were_measured(text, monkeypatch):
    monkeypatch.setattr("ssdcli.evaluation.evaluate._BATCH_TOKENS", CONTEXT)
    add_family()
    found = evaluate([text], core="big", settings=EvalSettings(minutes=1e-9))
    assert 1 <= found.documents < 12
    assert f"{found.documents} of 12 documents were measured" in found.remarks[0]


def test_of_its_own_training_text_what_a_model_held_out_is_measured(tmp_path):
    data = write_text(tmp_path / "own.txt")
    registry = Registry(tmp_path / "home")
    run(tiny_settings(data), registry.home)
    found = heldout([data], registry.find("tiny"), registry)
    assert "was trained on this text" in found.remarks[-1]
    whole = (tmp_path / "own.txt").read_text()
    held = "".join(document.text for document in found.documents)
    assert 0 < len(held) < 0.4 * len(whole)
    assert held in whole
    other = heldout([write_text(tmp_path / "other.txt", 300)], registry.find("tiny"), registry)
    assert other.remarks == []
    assert [document.text for document in other.documents] == [(tmp_path / "other.txt").read_text()]


def test_a_long_text_is_measured_in_parts_and_a_duplicate_is_counted_and_left_out(tmp_path):
    add_family()
    data = write_text(tmp_path / "long.txt", 6000)
    (tmp_path / "copy.txt").write_text((tmp_path / "long.txt").read_text())
    found = heldout([data, str(tmp_path / "copy.txt")], Registry().find("big"))
    assert len(found.documents) == 3
    assert sum(len(part.text) for part in found.documents) == (tmp_path / "long.txt").stat().st_size
    assert "duplicate" in found.remarks[0]
    assert len(heldout([data], Registry().find("big"), documents=2).documents) == 2


def test_what_was_skipped_is_said_and_no_text_is_refused(text, tmp_path):
    add_family()
    (tmp_path / "picture.bin").write_bytes(b"\0" * 99)
    found = evaluate([text, str(tmp_path / "picture.bin")], core="big")
    assert "skipped 1 file: binary" in found.remarks[0]
    with pytest.raises(UsageError, match="there is no text to measure"):
        evaluate([str(tmp_path / "picture.bin")], core="big")
    with pytest.raises(UsageError, match="no file or folder"):
        evaluate(["nowhere"], core="big")


def test_text_of_which_nothing_can_be_measured_is_refused(tmp_path, monkeypatch):
    add_family()
    (tmp_path / "one.txt").write_text("Dear landlord,")
    monkeypatch.setattr("ssdcli.evaluation.evaluate.scored_texts", lambda *_: [])
    with pytest.raises(UsageError, match="nothing of this text can be measured"):
        evaluate([str(tmp_path / "one.txt")], core="big")


def test_all_go_on_from_the_same_beginnings_and_a_judge_reads_what_they_write(text, tmp_path):
    add_family()
    judge = tmp_path / "judge"
    write_checkpoint(judge)
    settings = EvalSettings(rules=("mix",), schedules=("constant",), generate=3, judge=judge)
    found = evaluate([text], members=["notes"], settings=settings)
    assert [texts.name for texts in found.generated] == [PEOPLE, "big", "notes", "ensemble"]
    assert all(texts.count == 3 and texts.values["perplexity"] > 1 for texts in found.generated)
    assert all(0 < found.generated[0].values[f"distinct_{n}"] <= 1 for n in (1, 2, 3))
    assert found.generated[0].values["perplexity"] != found.generated[1].values["perplexity"]


def test_what_is_not_measured_of_texts_is_said(text):
    add_family()
    found = evaluate([text], core="big", settings=EvalSettings(generate=1))
    assert [texts.values["perplexity"] for texts in found.generated] == [None, None]
    (remark,) = found.remarks
    assert remark.startswith("perplexity and MAUVE were not measured: name the folder of a causal language model")
    assert "pip install" in remark


def test_mauve_compares_each_with_people_where_its_library_is(text, tmp_path, monkeypatch):
    add_family()
    write_checkpoint(tmp_path / "judge")
    monkeypatch.setattr("ssdcli.evaluation.generated.can_measure_mauve", lambda: True)
    asked = []
    monkeypatch.setattr(
        "ssdcli.evaluation.generated.mauve",
        lambda own, other, seed: float(len(asked.append((own, other)) or asked)),
    )
    settings = EvalSettings(generate=5, judge=tmp_path / "judge")
    found = evaluate([text], core="big", settings=settings)
    assert [texts.values["mauve"] for texts in found.generated] == [1.0, 2.0]
    assert not any("MAUVE" in remark for remark in found.remarks)
    (half, others), (written, people) = asked
    assert (len(half), len(others), len(written), len(people)) == (3, 2, 5, 5)
    np.testing.assert_array_equal(half, people[::2])  # the ceiling: one half of the people against the other
    np.testing.assert_array_equal(others, people[1::2])
    assert not np.isin(written, people).all(1).any()


def test_one_text_of_people_has_no_halves_to_compare(text, tmp_path, monkeypatch):
    add_family()
    write_checkpoint(tmp_path / "judge")
    monkeypatch.setattr("ssdcli.evaluation.generated.can_measure_mauve", lambda: True)
    monkeypatch.setattr("ssdcli.evaluation.generated.mauve", lambda own, other, seed: 0.5)
    found = evaluate([text], core="big", settings=EvalSettings(generate=1, judge=tmp_path / "judge"))
    assert [texts.values["mauve"] for texts in found.generated] == [None, 0.5]


def test_a_new_metric_of_texts_is_one_function_in_one_table(text, monkeypatch):
    add_family()
    monkeypatch.setitem(METRICS, "words", lambda written: sum(map(len, written.texts)) / len(written.texts))
    found = evaluate([text], core="big", settings=EvalSettings(generate=2))
    assert all(told["words"] > 0 for told in found.to_json()["generated"])


def test_progress_is_told_from_reading_to_writing(text):
    add_family()
    told = []
    evaluate([text], core="big", settings=EvalSettings(generate=1), on_progress=lambda *one: told.append(one))
    assert list(dict.fromkeys(doing for doing, _ in told)) == ["reading", "measuring", "writing"]
    assert told[-1] == ("writing", 1.0)


def test_in_python_it_is_a_call(text):
    add_family()
    found = ssdcli.evaluate(text, "big", {"notes": 0.3}, ssdcli.EvalSettings(rules=("mix",)))
    assert found.small == "notes"
    assert found.to_json()["best"]["rule"] == "mix"

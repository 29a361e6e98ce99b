"""Every family as a core: a small model trained for it, and the two writing together, by the commands."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ssdcli.cli import app
from ssdcli.registry.store import Registry
from tests.trainings import write_text

NAMES = ("llada", "dream", "diffullama", "sdar", "fast_dllm", "llada2", "ssdlm", "tess2", "diffusion_gemma")
FREE = ("llada", "dream", "diffullama", "ssdlm", "tess2")  # full attention: any block size
CAUSAL = ("causal-qwen2", "causal-gpt2")  # with a row of the table for the mask, and without
KINDS = ("llada", "sdar", "ssdlm", "diffusion_gemma", "causal-qwen2")  # one of each attention and noise process
SMALL = ["--hidden", "32", "--layers", "1", "--context", "64", "--batch-tokens", "128", "--steps", "3"]

Ssd = Callable[..., list[dict]]


@pytest.fixture
def ssd(monkeypatch, capsys) -> Ssd:
    """Runs a command that is to succeed, and returns the JSON objects that it prints."""

    def run(*arguments: str) -> list[dict]:
        capsys.readouterr()
        code = app.main([*arguments, "--json"])
        shown = capsys.readouterr()
        assert code == 0, shown.err
        return [json.loads(line) for line in shown.out.splitlines()]

    return run


@pytest.fixture(params=[*NAMES, *CAUSAL])
def core(request, pulled, monkeypatch) -> str:
    """The name of a pulled core, whose registry is the one in use."""
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setenv("SSD_HOME", str(pulled(request.param).parents[1]))
    return request.param


def check_what_was_taken(core: str) -> None:
    """A small model has from its core all that lets them share a canvas."""
    registry = Registry()
    small, large = registry.find("notes").manifest, registry.find(core).manifest
    for same in ("process", "constants", "tokenizer", "vocabulary", "ends"):
        assert getattr(small, same) == getattr(large, same)
    assert small.block_size == (8 if core in (*FREE, *CAUSAL) else large.block_size)
    assert (small.attention, small.format) == ("block-causal", "plain")


def test_a_small_model_trained_for_a_core_writes_with_it(core, ssd, tmp_path):
    text, context = write_text(tmp_path / "notes.txt", 500), tmp_path / "context.txt"
    context.write_text("The landlord is called Ms Peel.\n", encoding="utf-8")
    blocks = ["--block-size", "8"] if core in (*FREE, *CAUSAL) else []
    (trained,) = ssd("train-small", text, "--for", core, "--name", "notes", *SMALL, *blocks)
    assert trained["core"] == core
    check_what_was_taken(core)

    def write(*arguments: str) -> dict:
        plan = ["--with", "notes=0.5", "--max-tokens", "12", "--seed", "7", "--temperature", "1"]
        plan += [] if core in CAUSAL else ["--steps", "4"]
        (result,) = ssd("generate", "Dear landlord,", *plan, *arguments)
        return result

    private = ["--context", str(context)]
    mixed = write(*private)
    memory = ["notes:memory"] if core in CAUSAL else []  # which looks the private context up, too
    assert [member["name"] for member in mixed["members"]] == [core, "notes", *memory]
    assert all(member["forward_passes"] > 0 for member in mixed["members"])
    if core not in KINDS:
        return
    if core in FREE:
        spent, spared = (result["members"][0]["flops"] for result in (mixed, write(*private, "--cache")))
        assert spared < spent
    contrasted = write(*private, "--rule", "contrast")
    assert [member["name"] for member in contrasted["members"]] == [core, "notes", "notes without context"]
    sandwiched = write(*private, "--schedule", "sandwich:0.5")
    passes = {member["name"]: member["forward_passes"] for member in sandwiched["members"]}
    assert 0 < passes[core] < passes["notes"]
    assert sandwiched["flops_saved"] > 0


def test_the_weight_beside_a_core_is_chosen_on_texts_that_were_held_out(pulled, ssd, tmp_path, monkeypatch):
    monkeypatch.setenv("SSD_HOME", str(pulled("llada").parents[1]))
    notes = tmp_path / "notes.jsonl"
    lines = (
        json.dumps({"text": f"Note {n}: the boiler of flat {n * 7} is cold, says the landlord."}) for n in range(80)
    )
    notes.write_text("\n".join(lines), encoding="utf-8")
    flags = ["--heldout", "0.3", "--block-size", "8", "--overwrite"]
    (trained,) = ssd("train-small", str(notes), "--for", "llada", "--name", "weighed", *SMALL, *flags)
    assert trained["weight"] in [tenth / 10 for tenth in range(1, 11)]
    bits = trained["bits_per_byte"]
    assert bits["ensemble"] <= bits["small"]  # one of the weights is the small model alone
    assert Registry().find("weighed").manifest.weight == trained["weight"]


@pytest.mark.parametrize("core", CAUSAL, indirect=True)
def test_a_small_model_reads_the_states_of_any_causal_core(core, ssd, tmp_path):
    text = write_text(tmp_path / "notes.txt", 500)
    ssd("train-small", text, "--for", core, "--name", "reader", "--steps", "3", "--batch-tokens", "128")
    assert Registry().find("reader").manifest.reads_core
    (result,) = ssd("generate", "Dear landlord,", "--with", "reader=0.5", "--max-tokens", "12", "--seed", "7")
    assert result["tokens"] == 12
    assert [member["name"] for member in result["members"]][:2] == [core, "reader"]

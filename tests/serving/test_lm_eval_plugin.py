"""lm-evaluation-harness measures an ensemble as it measures its own models, and finds the same."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval")

import lm_eval
import torch
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import ssdcli
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import UsageError
from ssdcli.evaluation.code_length import CodeSettings, code_lengths
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.registry.store import Registry
from ssdcli.serving import lm_eval_plugin
from ssdcli.serving.lm_eval_plugin import SsdLM
from tests.pulled import add_causal, add_core
from tests.tiny import VOCABULARY, add_tiny, tiny_tokenizer

ROOT = Path(__file__).parents[2]
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{choices[answer]}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}
DOCUMENTS = [
    {"question": "The capital of France is", "choices": ["London", "Paris"], "answer": 1},
    {"question": "The opposite of hot is", "choices": ["cold", "warm and red"], "answer": 0},
]


def request(*arguments):
    return SimpleNamespace(args=arguments)


@pytest.fixture
def tasks(tmp_path):
    """Tasks of the harness in files here, which need no network."""
    rows = tmp_path / "documents.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS), encoding="utf-8")
    found = {"data_files": {"test": str(rows)}, "cache_dir": str(tmp_path / "cache")}
    for name, task in TASKS.items():
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": found, "test_split": "test", **task}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(whole), encoding="utf-8")  # JSON is YAML, too
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def measured(model, tasks, names=tuple(TASKS), **settings):
    """The figures of each task, and the answers to each request."""
    found = lm_eval.simple_evaluate(
        model=model, tasks=list(names), task_manager=tasks, bootstrap_iters=0, batch_size=1, device="cpu", **settings
    )
    figures = {
        name: {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
        for name in names
    }
    return figures, {name: [sample["resps"] for sample in found["samples"][name]] for name in names}


def flat(answers):
    """All numbers in what was answered, and all else."""
    if isinstance(answers, (list, tuple)):
        return [one for answer in answers for one in flat(answer)]
    return [answers]


def same(own, theirs):
    (figures, answers), (expected, said) = own, theirs
    for name in expected:
        assert figures[name] == pytest.approx(expected[name], rel=1e-5), name
        for found, wanted in zip(flat(answers[name]), flat(said[name]), strict=True):
            assert found == (pytest.approx(wanted, abs=2e-4) if type(wanted) is float else wanted), name


def of_transformers(folder, tokenizer, **settings):
    """The harness's own class over a core's files."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return import_module("lm_eval.models.huggingface").HFLM(model, tokenizer=tokenizer, **settings)


def test_a_causal_core_gets_the_figures_of_the_class_for_transformers(tasks):
    """But for texts: the tiny core writes bytes that are no characters, where ssd writes others."""
    add_causal("core", suppressed=())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), eos_token="<|endoftext|>")
    theirs = of_transformers(Registry().find("core").folder, tokenizer, max_length=64)
    same(*(measured(model, tasks, ("choices", "texts")) for model in (SsdLM("core"), theirs)))


def test_the_real_core_gets_its_figures_and_writes_its_texts(tasks, real_core):
    """Also through its chat template, and after whichever token a text without a context follows."""
    tokenizer = AutoTokenizer.from_pretrained(real_core.folder)
    theirs, own = of_transformers(real_core.folder, tokenizer), SsdLM("smollm2", dtype="float32")
    assert (theirs.prefix_token_id, own.prefix_token_id) == (1, 0)
    with_prefix = SsdLM("smollm2", dtype="float32", prefix_token_id=1)
    same(measured(with_prefix, tasks, ("texts",)), measured(theirs, tasks, ("texts",)))
    theirs.custom_prefix_token_id = 0
    same(measured(own, tasks), measured(theirs, tasks))
    names = ("choices", "answers")
    same(*(measured(model, tasks, names, apply_chat_template=True) for model in (own, theirs)))


def test_an_ensemble_has_the_code_lengths_of_eval():
    add_causal("core")
    add_tiny("notes", 2, kind="small", core="core", weight=0.3)
    model, text = SsdLM("core+notes=0.4"), "Dear landlord, the boiler is cold."
    writer = ssdcli.load("core", {"notes": 0.4})
    combination = Combination(writer.ensemble.rule, tuple(one.weight_at for one in writer.members))
    scored = ScoredText([0, *writer.codec.encode(text)], len(text))
    expected = -float(code_lengths(writer.members, [scored], [combination], CodeSettings()).sums[0, 0])
    assert model.loglikelihood_rolling([request(text)]) == [pytest.approx(expected)]
    assert model.loglikelihood([request("", text)])[0][0] == pytest.approx(expected)
    info = model.get_model_info()
    assert info["log_likelihood"] == "exact"
    assert [(one["name"], one["weight"]) for one in info["members"]] == [("core", 0.6), ("notes", 0.4)]


def test_what_an_ensemble_writes_greedily_is_its_greedy_continuation():
    """A prompt in tokens follows no opening, when it is continued as when continuations are scored."""
    tokenizer = tiny_tokenizer()
    strange = [token for token in range(VOCABULARY) if not tokenizer.decode([token]).strip().isascii()]
    add_causal("core", suppressed=(0, 1, 2, *strange, *range(tokenizer.get_vocab_size(), VOCABULARY)))
    model = SsdLM("core")
    ids = model.tok_encode("Dear landlord,")
    options = ssdcli.Options(max_tokens=9, temperature=0, explain=True)
    (alone,) = ssdcli.load("core").generate_batch([ssdcli.Request(ids=tuple(ids))], options)
    assert model.generate_until([request("Dear landlord,", {"max_gen_toks": 9})]) == [alone.text]
    written = [one.token for one in alone.explain]
    others = [*written[:-1], written[-1] + 1]
    (_, greedy), (_, other) = model._loglikelihood_tokens([(("", ""), ids, each) for each in (written, others)])
    assert (greedy, other) == (True, False)


def test_others_have_a_lower_bound_and_it_is_said(caplog):
    """Of one token the bound is its log-likelihood."""
    add_core("full", begin=0)
    model, exact = SsdLM("full"), ssdcli.load("full")
    with caplog.at_level(logging.INFO):
        ((found, greedy),) = model.loglikelihood([request("Dear", ",")])
    assert "a lower bound" in caplog.text
    assert not greedy
    (token,) = model.tok_encode(",")
    denoiser = exact.members[0].model.denoiser
    prefix = denoiser.start([Prompt(model.tok_encode("Dear"))])
    canvas = torch.full((1, denoiser.block_size), denoiser.process.mask_id)
    expected = float(denoiser.denoise(canvas, 1.0, None, prefix)[0, 0, token])
    assert found == pytest.approx(expected)
    assert model.loglikelihood([request("Dear", ",")]) == [(found, False)]


def test_what_has_no_bound_is_not_scored_and_still_writes():
    add_tiny("fuzzy", process="simplex")
    model = SsdLM("fuzzy")
    with pytest.raises(UsageError, match="does not bound"):
        model.loglikelihood([request("Dear", " landlord")])
    (text,) = model.generate_until([request("Dear", {"max_gen_toks": 8, "do_sample": True, "temperature": 0.7})])
    assert text


def test_empty_texts_are_certain():
    add_causal("core")
    model = SsdLM("core")
    assert model.loglikelihood_rolling([request("")]) == [0.0]
    assert math.isfinite(model.loglikelihood([request("", "Dear")])[0][0])


def test_options_of_a_task_are_those_of_generate_or_refused():
    add_causal("core", suppressed=(0, 1, 2, *range(tiny_tokenizer().get_vocab_size(), VOCABULARY)))
    model = SsdLM("core", seed=3)
    asked = {"until": ["zz"], "max_gen_toks": 9, "do_sample": True, "temperature": 0.8, "top_p": 0.9}
    ids = tuple(model.tok_encode("Dear"))
    (alone,) = ssdcli.load("core").generate_batch(
        [ssdcli.Request(ids=ids)], ssdcli.Options(max_tokens=9, seed=3, temperature=0.8, top_p=0.9, stop=("zz",))
    )
    assert model.generate_until([request("Dear", asked)]) == [alone.text]
    with pytest.raises(UsageError, match="'top_k'"):
        model.generate_until([request("Dear", {"top_k": 4})])
    with pytest.raises(UsageError, match="no chat template"):
        model.apply_chat_template([{"role": "user", "content": "Dear"}])


def test_the_command_line_of_the_harness_has_the_model(tasks, monkeypatch, capsys, tmp_path):
    add_causal("core")
    given = ["run", "--model", "ssd", "--tasks", "choices", "--include_path", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["lm-eval", *given, "--model_args", "model=core"])
    lm_eval_plugin.main()
    assert "|choices|" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["lm-eval", *given, "--model_args", "model=nothing"])
    with pytest.raises(SystemExit, match="no model named 'nothing'"):
        lm_eval_plugin.main()


def test_the_model_is_declared_for_versions_that_find_plugins_and_loads_no_torch():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert declared["lm_eval.models"] == {"ssd": f"{SsdLM.__module__}:{SsdLM.__name__}"}
    script = "import sys, ssdcli.serving.lm_eval_plugin\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)

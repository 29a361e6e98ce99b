from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.guidance import Guide
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.engine.steps import SamplerConfig
from ssdcli.errors import SsdError, UsageError
from ssdcli.generation.guides import DEFAULT_SCALE, GuideSpec, open_guide
from ssdcli.registry.manifest import tokenizer_fingerprint
from tests.tiny import VOCABULARY, tiny_tokenizer

BLOCK = 5
LENGTH = 3 * BLOCK  # odd, so that one side prevails
ROWS = 32
WORDS = torch.arange(20, 40)  # what is written, each word as likely as the others
PROCESSES = pytest.mark.parametrize(
    "process", [Masked(VOCABULARY, mask_id=1), Simplex(VOCABULARY)], ids=["masked", "simplex"]
)

# Two ways to part the words, of which each says nothing about the other.
SUNNY = WORDS % 2 == 0
SHORT = WORDS < 30


def prevails(part: Tensor, tokens: Tensor) -> Tensor:
    """Whether the words of a part are the most: (B, T) to (B,) bool. The rule by which all texts are judged."""
    return torch.isin(tokens, WORDS[part]).sum(1) * 2 > tokens.shape[1]


def train_classifier(folder: Path, part: Tensor, labels: tuple[str, str], steps: int = 120) -> None:
    """Teach transformers' own BERT which part prevails in texts of all mixtures, and keep it with its tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        names = dict(enumerate(labels))
        model = BertForSequenceClassification(
            BertConfig(vocab_size=VOCABULARY, **shape, max_position_embeddings=64, id2label=names)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        for _ in range(steps):
            share = torch.rand(64, 1)
            pick = torch.rand(64, LENGTH) < share
            text = torch.where(pick, draw(WORDS[part]), draw(WORDS[~part]))
            framed = torch.nn.functional.pad(text, (1, 1))  # token 0 on both sides, as in the template
            loss = model(input_ids=framed, labels=prevails(part, text).long()).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    template().save(str(folder / "tokenizer.json"))


def draw(words: Tensor) -> Tensor:
    return words[torch.randint(len(words), (64, LENGTH))]


def template() -> Tokenizer:
    tokenizer = Tokenizer.from_str(tiny_tokenizer().to_str())
    end = "<|endoftext|>"
    tokenizer.post_processor = TemplateProcessing(single=f"{end} $A {end}", pair=None, special_tokens=[(end, 0)])
    return tokenizer


FINGERPRINT = tokenizer_fingerprint(tiny_tokenizer().to_str().encode())


@pytest.fixture(scope="module")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guides") / "tone"
    train_classifier(folder, SUNNY, ("Gloomy", "Sunny"))
    return folder


@pytest.fixture(scope="module")
def size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guides") / "size"
    train_classifier(folder, SHORT, ("long", "short"))
    return folder


class Even:
    """A denoiser to which every word is as likely at every position of every canvas."""

    def start(self, prompts: Any) -> None:
        return None

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: None) -> Tensor:
        p = torch.zeros(VOCABULARY).index_fill(0, WORDS, 1 / len(WORDS))
        return p.log().expand(*canvas.shape[:2], -1)

    def commit(self, tokens: Tensor, prefix: None) -> None:
        return None


def write(process: Process, *guides: Guide) -> Tensor:
    """Texts of the same seeds under these guides: (ROWS, LENGTH)."""
    ensemble = Ensemble((Member("even", Even(), Constant(1.0)),))
    config = SamplerConfig(BLOCK, LENGTH, ends=(-1,), picker=Picker(), guides=guides)
    reverse = replace(reverse_process(process), steps=2)
    prompts = [[Prompt([0])] * ROWS]
    last = {step.block: step for step in sample(ensemble, reverse, prompts, list(range(ROWS)), config)}
    return torch.cat([process.tokens(step.canvas) for step in last.values()], dim=1)


def opened(folder: Path, label: str, scale: float) -> Guide:
    return open_guide(GuideSpec(str(folder), label, scale), FINGERPRINT, VOCABULARY)


def share(part: Tensor, tokens: Tensor) -> float:
    return float(prevails(part, tokens).double().mean())


@PROCESSES
def test_the_stronger_the_guide_the_more_texts_have_its_label(process, tone):
    unguided = write(process)
    assert torch.equal(write(process, opened(tone, "sunny", 0.0)), unguided)
    shares = [share(SUNNY, unguided), *(share(SUNNY, write(process, opened(tone, "sunny", s))) for s in (0.05, 0.2))]
    assert 0.35 < shares[0] < 0.65
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.85


def test_a_scale_below_zero_steers_away(tone):
    assert share(SUNNY, write(Masked(VOCABULARY, mask_id=1), opened(tone, "sunny", -3))) < 0.1


def test_two_guides_are_followed_at_once(tone, size):
    texts = write(Simplex(VOCABULARY), opened(tone, "sunny", 10), opened(size, "long", 10))
    assert share(SUNNY, texts) > 0.8
    assert share(~SHORT, texts) > 0.8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tone:sunny", GuideSpec("tone", "sunny", DEFAULT_SCALE)),
        ("org/tone:sunny=3", GuideSpec("org/tone", "sunny", 3.0)),
        ("~/models/a:b:1=-0.5", GuideSpec("~/models/a:b", "1", -0.5)),
        (r"C:\models\tone:sunny=1e2", GuideSpec(r"C:\models\tone", "sunny", 100.0)),
        ("c:/tone:very sunny = 2", GuideSpec("c:/tone", "very sunny", 2.0)),
        ("C:a/b", GuideSpec("C", "a/b", DEFAULT_SCALE)),
        ("tone:a=b=2", GuideSpec("tone", "a=b", 2.0)),
    ],
)
def test_a_guide_is_read_as_model_label_and_scale(text, expected):
    assert GuideSpec.parse(text) == expected


@given(
    st.text(r"aC:=/\ ~", min_size=2),
    st.text("abC/- ", min_size=1).map(str.strip).filter(bool),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_every_model_label_and_scale_can_be_written(model, label, scale):
    assert GuideSpec.parse(f"{model}:{label}={scale}") == GuideSpec(model, label, scale)


@pytest.mark.parametrize(
    "text",
    ["", "tone", "tone:", ":sunny", "tone:=3", "tone: =3", r"C:\models\tone", "C:/tone=2"]
    + [f"tone:sunny={scale}" for scale in ("", "much", "nan", "inf", "-inf", "1,5")],
)
def test_a_malformed_guide_is_refused_with_the_right_form(text):
    with pytest.raises(UsageError, match="MODEL:LABEL or MODEL:LABEL=SCALE") as caught:
        GuideSpec.parse(text)
    assert repr(text) in caught.value.problem


@pytest.mark.parametrize(("label", "expected"), [("Sunny", 1), ("sunny", 1), ("GLOOMY", 0), ("0", 0), ("1", 1)])
def test_a_label_is_given_by_its_name_in_any_case_or_its_number(tone, label, expected):
    guide = opened(tone, label, 2.5)
    assert (guide.label, guide.scale) == (expected, 2.5)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(["1", "sunny"], {"1": 0, "0": 0, "sunny": 1, "SUNNY": 1}), (["SUNNY", "sunny"], {"sunny": 1, "SUNNY": 0})],
)
def test_a_name_as_it_is_spelled_comes_before_other_letter_case_and_before_a_number(tone, tmp_path, labels, expected):
    folder = shutil.copytree(tone, tmp_path / "tone")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": dict(enumerate(labels))}))
    assert {label: opened(folder, label, 1.0).label for label in expected} == expected


@pytest.mark.parametrize("label", ["suny", "2", "-1", "²"])
def test_an_unknown_label_is_refused_with_those_that_are_known(tone, label):
    with pytest.raises(UsageError, match="It has Gloomy, Sunny") as caught:
        opened(tone, label, 1.0)
    assert ("Did you mean 'Sunny'?" in caught.value.remedy) == (label == "suny")


def test_another_tokenizer_is_refused_before_the_model_is_read(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tiny_tokenizer().to_str())
    with pytest.raises(UsageError, match=f"{FINGERPRINT[:12]}.*{'ab' * 6}.*train one with their tokenizer"):
        open_guide(GuideSpec(str(tmp_path), "sunny"), "ab" * 32, VOCABULARY)


@pytest.mark.parametrize("rows", [VOCABULARY - 1, VOCABULARY])
def test_a_classifier_may_know_more_token_ids_than_the_models_predict(tone, rows):
    assert open_guide(GuideSpec(str(tone), "sunny"), FINGERPRINT, rows)


def test_a_classifier_that_knows_fewer_token_ids_than_the_models_predict_is_refused(tone):
    with pytest.raises(UsageError, match=r"has 300 token ids.*predict 301.*resize_token_embeddings\(301\)"):
        open_guide(GuideSpec(str(tone), "sunny"), FINGERPRINT, VOCABULARY + 1)


@pytest.mark.parametrize("model", ["nowhere", "org/nowhere", "/no/such/folder", "what? ever", r"C:\tone", "a\0b"])
def test_a_model_that_is_not_on_this_machine_is_refused(model):
    with pytest.raises(UsageError, match=r"no folder .* and no model of this name in the cache"):
        open_guide(GuideSpec(model, "sunny"), FINGERPRINT, VOCABULARY)


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("tokenizer.json", None, r"the tokenizer\.json of the classifier .* cannot be read"),
        ("tokenizer.json", "{}", r"tokenizer\.json is not one"),
        ("config.json", None, "cannot be read"),
        ("model.safetensors", "", "cannot be read"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tone, tmp_path, file, content, problem):
    shutil.copytree(tone, tmp_path / "broken")
    (tmp_path / "broken" / file).unlink()
    if content is not None:
        (tmp_path / "broken" / file).write_text(content)
    with pytest.raises(SsdError, match=problem):
        opened(tmp_path / "broken", "sunny", 1.0)


def test_a_model_in_the_hub_cache_is_found_by_its_name(tone, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--org--tone"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tone, repository / "snapshots" / ("0" * 40))
    assert open_guide(GuideSpec("org/tone", "sunny"), FINGERPRINT, VOCABULARY).label == 1


def test_a_home_folder_may_be_written_as_a_tilde(tone, monkeypatch):
    monkeypatch.setenv("HOME", str(tone.parent))
    assert opened(Path("~/tone"), "sunny", 1.0).label == 1


def test_naming_a_guide_needs_no_torch():
    parse = "from ssdcli.generation.guides import GuideSpec; GuideSpec.parse('a:b=1')"
    code = f"import sys; {parse}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

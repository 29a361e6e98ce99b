from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from ssdcli.engine.ensemble.guidance import ClassifierGuide
from ssdcli.errors import SsdError
from ssdcli.models.classifier import load_classifier
from tests.tiny import VOCABULARY, tiny_tokenizer

POSITIONS = 40
PADDING = 2
LABELS = {0: "calm", 1: "Cross", 2: "glad"}
NARROW = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DISTILLED = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
HEADS = {"num_key_value_heads": 2, "head_dim": 16}
SHAPES: dict[str, dict[str, Any]] = {
    "Bert": NARROW,
    "Roberta": NARROW,
    "DistilBert": DISTILLED,
    "Electra": NARROW | {"embedding_size": 16},
    "ModernBert": NARROW | {"bos_token_id": 0, "eos_token_id": 0, "cls_token_id": 0, "sep_token_id": 0},
    "Qwen3": NARROW | HEADS,
    "Gemma3Text": NARROW | HEADS,
    "GPT2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
}
ARCHITECTURES = pytest.mark.parametrize("architecture", SHAPES)
TOKENS = torch.arange(60).view(3, 20) + 5


def template() -> Tokenizer:
    """The tiny tokenizer, with a token before each text and two after it, and padded to a whole window."""
    tokenizer = Tokenizer.from_str(tiny_tokenizer().to_str())
    special = [("<|endoftext|>", 0), ("<|mask|>", 1)]
    tokenizer.post_processor = TemplateProcessing(
        single="<|mask|> $A <|endoftext|> <|mask|>", pair=None, special_tokens=special
    )
    tokenizer.enable_padding(length=POSITIONS, pad_id=PADDING, pad_token="<|pad|>")
    return tokenizer


def build(architecture: str, **changes: Any) -> Any:
    """A classifier of transformers' own with lively random weights."""
    fields = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": PADDING,
        "id2label": LABELS,
        **SHAPES[architecture],
    }
    config = getattr(transformers, f"{architecture}Config")(**{**fields, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{architecture}ForSequenceClassification")(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data.normal_(0, 2 * parameter.shape[1] ** -0.5)
    return model


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    template().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return save(build("Bert"), tmp_path / "bert")


@ARCHITECTURES
def test_embedded_tokens_get_the_scores_that_transformers_gives_the_tokens(architecture, tmp_path):
    model = build(architecture)
    classifier = load_classifier(save(model, tmp_path))
    with torch.no_grad():
        expected = model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits.log_softmax(-1)
    torch.testing.assert_close(classifier.log_p(classifier.table[TOKENS]), expected, rtol=1e-4, atol=1e-5)
    assert expected.std(0).min() > 1e-3
    assert classifier.labels == ("calm", "Cross", "glad")


@ARCHITECTURES
def test_the_window_is_as_wide_as_the_positions_reach(architecture, tmp_path):
    classifier = load_classifier(save(build(architecture), tmp_path))
    assert classifier.window == POSITIONS - (PADDING + 1 if architecture == "Roberta" else 0)
    ids = torch.full((1, classifier.window + 1), 7)
    assert classifier.log_p(classifier.table[ids[:, 1:]]).isfinite().all()
    if architecture not in ("ModernBert", "Qwen3", "Gemma3Text"):  # rotary positions go on, untrained
        with pytest.raises((RuntimeError, IndexError)):
            classifier.log_p(classifier.table[ids])


def test_relative_positions_have_no_end(tmp_path):
    config = transformers.XLNetConfig(d_model=32, n_layer=1, n_head=2, d_inner=32, vocab_size=VOCABULARY)
    assert load_classifier(save(transformers.XLNetForSequenceClassification(config), tmp_path)).window == sys.maxsize


@pytest.mark.parametrize("architecture", ["Bert", "Qwen3"])
def test_a_guide_pushes_a_row_as_it_does_alone(architecture, tmp_path):
    guide = ClassifierGuide(load_classifier(save(build(architecture), tmp_path)), 1, 1.0)
    log_p = torch.randn(5, 8, VOCABULARY, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    written = torch.arange(50).view(5, 10) + 3
    together = guide.push(log_p, written)
    assert together.abs().max() > 1e-5
    for row in range(5):
        assert torch.equal(guide.push(log_p[row : row + 1], written[row : row + 1])[0], together[row])


def test_the_special_tokens_are_those_of_the_tokenizers_template_without_padding(bert):
    classifier = load_classifier(bert)
    assert (classifier.opening.tolist(), classifier.closing.tolist()) == ([1], [0, 1])
    tiny_tokenizer().save(str(bert / "tokenizer.json"))
    plain = load_classifier(bert)
    assert (plain.opening.tolist(), plain.closing.tolist()) == ([], [])


def test_a_classifier_without_a_padding_token_reads_several_rows(tmp_path):
    classifier = load_classifier(save(build("Qwen3", pad_token_id=None), tmp_path))
    assert classifier.log_p(classifier.table[TOKENS]).shape == (3, 3)


def test_a_classifier_is_read_in_float32_and_never_trained(tmp_path):
    classifier = load_classifier(save(build("Bert", hidden_dropout_prob=0.5).bfloat16(), tmp_path))
    assert classifier.table.dtype == torch.float32
    assert not classifier.table.requires_grad
    embedded = classifier.table[TOKENS].requires_grad_()
    log_p = classifier.log_p(embedded)
    assert log_p.dtype == torch.float32
    assert torch.equal(log_p, classifier.log_p(embedded))
    log_p.sum().backward()
    assert embedded.grad is not None
    assert classifier.table.grad is None


def test_reading_a_classifier_writes_nothing(bert, capfd):
    load_classifier(bert)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("changes", [{"id2label": {0: "spam"}}, {"problem_type": "multi_label_classification"}])
def test_labels_that_do_not_exclude_each_other_have_a_probability_each(changes, tmp_path):
    model = build("Bert", **changes)
    classifier = load_classifier(save(model, tmp_path))
    with torch.no_grad():
        expected = model(input_ids=TOKENS).logits.sigmoid()
    torch.testing.assert_close(classifier.log_p(classifier.table[TOKENS]).exp(), expected)


def test_a_model_of_numbers_is_refused(tmp_path):
    with pytest.raises(SsdError, match="trained for regression"):
        load_classifier(save(build("Bert", problem_type="regression"), tmp_path))


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    save(build("Bert"), tmp_path)
    build("Bert").bert.save_pretrained(tmp_path)
    with pytest.raises(SsdError, match=r"holds no trained classifier\.bias"):
        load_classifier(tmp_path)


def test_an_architecture_that_reads_tokens_alone_is_refused(tmp_path):
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": VOCABULARY}
    model = transformers.T5ForSequenceClassification(transformers.T5Config(**shape))
    with pytest.raises(SsdError, match="T5ForSequenceClassification does not treat embeddings"):
        load_classifier(save(model, tmp_path))


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickle(folder: Path) -> None:
    """Keep the weights as a pickle, which may run code when it is read."""
    torch.save(build("Bert").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def own_code(folder: Path) -> None:
    auto = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    rewrite(folder, model_type="evil", auto_map=auto)
    (folder / "evil.py").write_text("raise AssertionError('this code must not run')")


BREAKAGES = {
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "an unknown architecture": lambda folder: rewrite(folder, model_type="nonesuch"),
    "other shapes": lambda folder: rewrite(folder, intermediate_size=64),
    "an impossible shape": lambda folder: rewrite(folder, num_attention_heads=3),
    "weights cut short": lambda folder: (folder / "model.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{"),
    "pickled weights": pickle,
    "code of its own": own_code,
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "a broken tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_cannot_be_read_is_refused_with_its_folder_and_the_way_out(breakage, bert):
    BREAKAGES[breakage](bert)
    with pytest.raises(SsdError, match="cannot be read") as caught:
        load_classifier(bert)
    assert str(bert) in caught.value.problem
    assert "\n" not in str(caught.value)
    assert caught.value.remedy

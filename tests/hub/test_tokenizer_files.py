"""What the tokenizer files of a checkpoint say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from ssdcli.errors import SsdError
from ssdcli.hub.tokenizer_files import make_tokenizer, read_template, read_vocabulary
from ssdcli.models.families.family import Vocabulary
from tests.models.families.checkpoints import WORDS, write_json, write_slow_tokenizer, write_tokenizer
from tests.models.families.llada import BEGIN, END, MASK, SPECIALS, TEMPLATE, TURN

SETTINGS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "chat_template": TEMPLATE,
}


@pytest.fixture
def source(tmp_path) -> Path:
    write_tokenizer(tmp_path, SPECIALS, SETTINGS)
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    table = json.loads(path.read_text())
    write_json(path, {key: value for key, value in (table | changes).items() if value is not None})


def vocabulary_of(folder: Path) -> Vocabulary:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return read_vocabulary((folder / "tokenizer.json").read_bytes(), files)


def test_the_vocabulary_has_sizes_and_special_ids_as_the_files_name_them(source):
    found = vocabulary_of(source)
    assert (found.size, found.begin, found.end, found.pad, found.chat) == (TURN + 1, BEGIN, END, END, True)
    assert {text: id for text, id in found.ids.items() if text in SPECIALS} == {
        text: BEGIN + n for n, text in enumerate(SPECIALS)
    }


def test_special_tokens_may_be_tables_or_in_the_file_of_their_own(source):
    edit(source / "tokenizer_config.json", bos_token={"content": "[CLS]"}, eos_token=None, mask_token=None)
    write_json(source / "special_tokens_map.json", {"eos_token": {"content": "[gMASK]"}, "mask_token": "<|mdm_mask|>"})
    found = vocabulary_of(source)
    assert (found.begin, found.end, found.mask) == (BEGIN + 2, BEGIN + 3, MASK)


def test_what_no_token_is_named_for_is_taken_from_the_generation_settings_but_for_the_beginning(source):
    edit(source / "tokenizer_config.json", bos_token=None, eos_token=None, pad_token=None)
    generation = {"bos_token_id": 1, "eos_token_id": [2, 3], "mask_token_id": 4, "pad_token_id": 5}
    write_json(source / "generation_config.json", generation)
    found = vocabulary_of(source)
    assert (found.begin, found.end, found.mask, found.pad) == (None, None, 4, 5)


def test_tokens_that_are_added_on_loading_count(source):
    write_json(source / "tokenizer_config.json", {"added_tokens_decoder": {"310": {"content": "<|late|>"}}})
    found = vocabulary_of(source)
    assert (found.size, found.ids["<|late|>"], found.chat) == (311, 310, False)


@pytest.mark.parametrize(
    ("puts", "asked", "expected"),
    [(True, None, BEGIN), (False, None, None), (True, False, None), (False, True, BEGIN)],
)
def test_what_a_tokenizer_puts_before_a_text_is_its_own_doing_unless_its_settings_say_otherwise(
    source, puts, asked, expected
):
    made = Tokenizer.from_file(str(source / "tokenizer.json"))
    begin = made.id_to_token(BEGIN)
    if puts:
        made.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, BEGIN)])
    made.save(str(source / "tokenizer.json"))
    edit(source / "tokenizer_config.json", bos_token=begin, **({} if asked is None else {"add_bos_token": asked}))
    assert vocabulary_of(source).opening == expected


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ([{"name": "tool", "template": "a"}, {"name": "default", "template": "b"}], "b"),
        ([{"name": "tool", "template": "a"}], None),
        (None, None),
    ],
)
def test_the_template_is_the_default_one_of_the_settings(tmp_path, template, expected):
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": template})
    assert read_template({"tokenizer_config.json": (tmp_path / "tokenizer_config.json").read_bytes()}) == expected


def test_a_template_in_a_file_of_its_own_wins(tmp_path):
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": "settings"})
    (tmp_path / "chat_template.jinja").write_text("file")
    assert read_template({path.name: path.read_bytes() for path in tmp_path.iterdir()}) == "file"


def test_older_files_become_a_tokenizer_by_the_native_class_and_not_by_code_of_the_repository(tmp_path):
    folder = tmp_path / "slow"
    folder.mkdir()
    foreign = {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_dream.X", None]}}
    write_slow_tokenizer(folder, SPECIALS, foreign)
    (folder / "tokenization_dream.py").write_text("raise SystemExit")
    made = make_tokenizer({path.name: path.read_bytes() for path in folder.glob("*.[jt]*")}, "qwen2")
    ids = read_vocabulary(made, {}).ids
    assert {text: ids[text] for text in SPECIALS} == {text: WORDS + n for n, text in enumerate(SPECIALS)}


@pytest.mark.parametrize("file", ["tokenizer.model", "spiece.model"])
def test_older_files_that_need_more_than_is_installed_are_refused(file):
    with pytest.raises(SsdError, match=r"no tokenizer\.json.*without running its code or installing more"):
        make_tokenizer({file: b"\x00sentencepiece"}, "mistral")

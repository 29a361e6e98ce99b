"""The tokenizer files of a checkpoint, old or new: vocabulary, special ids, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer

from ssdcli.errors import SsdError
from ssdcli.models.families.family import Vocabulary
from ssdcli.registry.manifest import TEMPLATE, TOKENIZER, TOKENIZER_SETTINGS

_SPECIAL = "special_tokens_map.json"
_GENERATION = "generation_config.json"
_SOURCES = ("vocab.json", "vocab.txt", "tokenizer.model")
_OF_THE_REPOSITORY = ("auto_map", "tokenizer_class")  # they name code that only the repository has
_REMEDY = "Pull another revision of the repository, or one that holds the same model with a tokenizer.json."

Files = Mapping[str, bytes]  # contents by name


def read_table(files: Files, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint; empty if it is missing, SsdError if it holds no table."""
    if name not in files:
        return {}
    try:
        table = json.loads(files[name].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SsdError(f"the checkpoint's {name} is not valid JSON ({error}).", _REMEDY) from error
    if not isinstance(table, dict):
        raise SsdError(f"the checkpoint's {name} holds no table.", _REMEDY)
    return table


def read_vocabulary(tokenizer: bytes, files: Files) -> Vocabulary:
    """The vocabulary of a tokenizer.json and the files beside it; SsdError if they cannot be read."""
    try:
        loaded = Tokenizer.from_buffer(tokenizer)
    except Exception as error:  # the library raises nothing more precise
        raise SsdError(f"the checkpoint's {TOKENIZER} cannot be read ({error}).", _REMEDY) from error
    settings = read_table(files, TOKENIZER_SETTINGS)
    ids = _later(settings) | {token.content: id for id, token in loaded.get_added_tokens_decoder().items()}
    everything = ids | loaded.get_vocab()
    names = read_table(files, _SPECIAL) | {key: value for key, value in settings.items() if value is not None}
    generation = read_table(files, _GENERATION)

    def special(role: str) -> int | None:
        named = names.get(f"{role}_token")
        if named is None:
            return None
        return everything.get(str(named["content"] if isinstance(named, dict) else named))

    def generated(role: str) -> int | None:
        found = generation.get(f"{role}_token_id")
        return found if isinstance(found, int) else None

    return Vocabulary(
        size=max(everything.values(), default=-1) + 1,
        ids=ids,
        begin=special("bos"),
        end=_first(special("eos"), generated("eos")),
        mask=_first(special("mask"), generated("mask")),
        pad=_first(special("pad"), generated("pad")),
        opening=_opening(loaded, settings, special("bos")),
        chat=read_template(files) is not None,
    )


def read_template(files: Files) -> str | None:
    """The chat template, from a file of its own or from tokenizer_config.json, if there is one."""
    if TEMPLATE in files:
        return files[TEMPLATE].decode("utf-8", "replace")
    template = read_table(files, TOKENIZER_SETTINGS).get("chat_template")
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def make_tokenizer(files: Files, model_type: str) -> bytes:
    """A tokenizer.json made from older files by transformers' class for a native model type.

    No code of the repository is run. SsdError if there is no such class, or if it needs files that are missing.
    """
    if any(name in files for name in _SOURCES):
        from transformers import AutoTokenizer

        with TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            settings = read_table(files, TOKENIZER_SETTINGS)
            kept = {key: value for key, value in settings.items() if key not in _OF_THE_REPOSITORY}
            (Path(folder) / TOKENIZER_SETTINGS).write_text(json.dumps(kept), encoding="utf-8")
            try:
                made = AutoTokenizer.from_pretrained(folder, tokenizer_type=model_type, local_files_only=True)
                return bytes(made.backend_tokenizer.to_str(), "utf-8")
            except Exception as error:  # a class fails in its own way on files that are not meant for it
                raise _no_tokenizer() from error
    raise _no_tokenizer()


def _opening(tokenizer: Tokenizer, settings: Mapping[str, Any], begin: int | None) -> int | None:
    """The id that a tokenizer puts before every text, if it does; its settings overrule it, as in transformers."""
    if settings.get("add_bos_token") is not None:
        return begin if settings["add_bos_token"] else None
    encoding = tokenizer.encode("a")
    return encoding.ids[0] if encoding.special_tokens_mask[:1] == [1] else None


def _later(settings: Mapping[str, Any]) -> dict[str, int]:
    """Tokens that transformers adds to tokenizer.json on loading, by their text."""
    added = settings.get("added_tokens_decoder")
    return {token["content"]: int(id) for id, token in added.items()} if isinstance(added, dict) else {}


def _first(*ids: int | None) -> int | None:
    return next((id for id in ids if id is not None), None)


def _no_tokenizer() -> SsdError:
    return SsdError(
        f"the repository has no {TOKENIZER}, nor files of which one could be made without running its code or "
        "installing more.",
        _REMEDY,
    )

"""The configuration and the tokenizer that a GGUF file holds, as the files that a repository would have of them.

transformers translates both. It reads them from an excerpt of the checked header, so that it needs neither the tensors
nor to be careful.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from ssdcli.errors import SsdError, UsageError
from ssdcli.models.weights.gguf_header import GgufHeader, excerpt
from ssdcli.registry.manifest import CONFIG, TOKENIZER, TOKENIZER_SETTINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_T = TypeVar("_T")

_FILE = "excerpt.gguf"
_ARCHITECTURE = "general.architecture"
_TOKENS = "tokenizer.ggml.tokens"
_TABLE = "token_embd.weight"
_TURN_ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding", "mask_token": "mask"}
_FOREIGN = ("_name_or_path", "_model_name_or_path", "unk_token_id")
_OTHER = "Get the model in another file, or pull the repository that it was made from."


def small_files(header: GgufHeader) -> dict[str, bytes]:
    """config.json, tokenizer.json and tokenizer_config.json of a GGUF file, by name.

    Raises UsageError for an architecture that is not known, SsdError for a file without a tokenizer, and for one whose
    metadata transformers cannot read.
    """
    _check_architecture(header)
    _check_tokenizer(header)
    tokenizer = _tokenizer(header)
    return {
        CONFIG: json.dumps(_config(header)).encode(),
        TOKENIZER: tokenizer.backend_tokenizer.to_str().encode(),
        TOKENIZER_SETTINGS: json.dumps(_settings(header)).encode(),
    }


def architectures() -> list[str]:
    """The architectures in ggml's names that can be read: known here and to the transformers that is installed."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    from ssdcli.models.weights.gguf_tensors import CHANGES

    return sorted(CHANGES.keys() & set(GGUF_SUPPORTED_ARCHITECTURES))


def _check_architecture(header: GgufHeader) -> None:
    known = architectures()
    if header.architecture not in known:
        raise UsageError(
            f"{header.name} is of the architecture {header.architecture!r}, which ssd does not read from GGUF.",
            f"Known are {', '.join(known)}. Its repository on the hub may hold a checkpoint that can be pulled.",
        )


def _check_tokenizer(header: GgufHeader) -> None:
    """Raise SsdError unless the file has a tokenizer for all rows of its table of embeddings."""
    kind, tokens = header.text("tokenizer.ggml.model"), header.array(_TOKENS)
    if not kind or not tokens:
        raise SsdError(f"{header.name} holds no tokenizer.", _OTHER)
    if _TABLE not in header.tensors:
        raise SsdError(f"{header.name} holds no embeddings ({_TABLE}).", _OTHER)


def _config(header: GgufHeader) -> dict[str, Any]:
    """The configuration of the native class, as transformers reads it, with what it leaves out."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    keys = [key for key in header.fields if key == _ARCHITECTURE or key.startswith(f"{header.architecture}.")]
    named = _read(header, (*keys, *_ids(header)), AutoConfig.from_pretrained).to_dict()
    config = {key: value for key, value in named.items() if key not in _FOREIGN}
    ends = [config.get("eos_token_id"), *(header.number(key, -1) for key in _TURN_ENDS)]
    return config | {
        "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]],
        "vocab_size": header.tensors[_TABLE].shape[0],
        "eos_token_id": list(dict.fromkeys(end for end in ends if isinstance(end, int) and end >= 0)),
    }


def _ids(header: GgufHeader) -> list[str]:
    """The keys of the special tokens' ids."""
    return [key for key in header.fields if key.startswith("tokenizer.") and key.endswith("_token_id")]


def _tokenizer(header: GgufHeader) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    keys = [key for key in header.fields if key == _ARCHITECTURE or key.startswith("tokenizer.")]
    read: PreTrainedTokenizerFast = _read(header, keys, PreTrainedTokenizerFast.from_pretrained)
    return read


def _settings(header: GgufHeader) -> dict[str, Any]:
    """The content of tokenizer_config.json: the texts of the special tokens, and the chat template."""
    tokens = header.array(_TOKENS)
    ids = {name: header.number(f"tokenizer.ggml.{role}_token_id", -1) for name, role in _ROLES.items()}
    settings: dict[str, Any] = {name: tokens[id] for name, id in ids.items() if 0 <= id < len(tokens)}
    template = header.text("tokenizer.chat_template")
    return settings if template is None else settings | {"chat_template": template}


def _read(header: GgufHeader, keys: Iterable[str], read: Callable[..., _T]) -> _T:
    """What one of transformers' classes reads from these entries; SsdError if it cannot."""
    from ssdcli.models.auto_model import quiet

    with TemporaryDirectory() as folder, quiet():
        (Path(folder) / _FILE).write_bytes(excerpt(header, keys))
        try:
            return read(folder, gguf_file=_FILE, local_files_only=True)
        except Exception as error:  # each class fails in its own way on values that it does not expect
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise SsdError(f"{header.name} cannot be read by transformers: {reason}.", _OTHER) from error

"""The configuration and the tokenizer in a GGUF file, as the files that a repository would have.

transformers translates both. It is given an excerpt of the checked header, so it sees neither tensors nor anything
unchecked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from ssdcli.errors import SsdError, UsageError
from ssdcli.hub.gguf_config import ReadTensor, completed, own_ids
from ssdcli.models.families.causal import CAUSAL_CLASSES
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.weights.gguf_header import GgufHeader, excerpt
from ssdcli.registry.manifest import CONFIG, TOKENIZER, TOKENIZER_SETTINGS

_T = TypeVar("_T")

_FILE = "excerpt.gguf"
_ARCHITECTURE = "general.architecture"
_TOKENS, _OPENS = "tokenizer.ggml.tokens", "tokenizer.ggml.add_bos_token"
_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,8})\.")
_MOST_LAYERS = 1024
_LONGEST_TOKEN = 1024  # characters; deriving merges takes their square
# These split text as GPT-2 does, or differ only in digits, which no merge of their vocabularies joins.
_AS_GPT2 = ("default", "gpt-2", "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "mpt", "olmo")
_TABLE = "token_embd.weight"
_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding", "mask_token": "mask"}
_FOREIGN = ("_name_or_path", "_model_name_or_path", "unk_token_id")
_OTHER = "Get the model in another file, or pull the repository that it was made from."


def small_files(header: GgufHeader, read: ReadTensor) -> dict[str, bytes]:
    """config.json, tokenizer.json and tokenizer_config.json of a GGUF file, by name.

    read: reads the bytes of a tensor. Raises UsageError for an architecture that is not known, SsdError for a file
    without a tokenizer, and for metadata that contradict the tensors or that transformers cannot read.
    """
    _check_architecture(header)
    check(header)
    with _understood(header):
        return {
            CONFIG: json.dumps(completed(_config(header), header, read)).encode(),
            TOKENIZER: _tokenizer(header),
            TOKENIZER_SETTINGS: json.dumps(_settings(header)).encode(),
        }


def check(header: GgufHeader) -> None:
    """Raise SsdError for a file without embeddings or a tokenizer, and for one that contradicts itself."""
    _check_tensors(header)
    _check_tokenizer(header)


@contextmanager
def _understood(header: GgufHeader) -> Iterator[None]:
    """Turn any failure to translate the metadata into an SsdError."""
    try:
        yield
    except SsdError:
        raise
    except Exception as error:  # transformers' classes fail in their own ways on values that they do not expect
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SsdError(f"the metadata of {header.name} cannot be read ({reason}).", _OTHER) from error


def architectures() -> list[str]:
    """The architectures, by ggml's names, that both ssd and the installed transformers can read."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    from ssdcli.models.weights.gguf_tensors import CHANGES

    return sorted(CHANGES.keys() & set(GGUF_SUPPORTED_ARCHITECTURES))


def gguf_doubts(header: GgufHeader) -> list[str]:
    """A warning if transformers does not know how the file's tokenizer splits text, and falls back on GPT-2's way."""
    split = header.text("tokenizer.ggml.pre") or "default"
    if header.text("tokenizer.ggml.model") != "gpt2" or split in _AS_GPT2:
        return []
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS  # which takes a second

    if split in GGUF_PRE_TOKENIZER_SPLITS:
        return []
    return [
        f"transformers does not know how {header.name} splits text before it is encoded ({split!r}), and splits it as "
        "GPT-2 does; numbers and punctuation may be encoded differently than in the model's training."
    ]


def _check_architecture(header: GgufHeader) -> None:
    known = architectures()
    if header.architecture not in known:
        raise UsageError(
            f"{header.name} has the architecture {header.architecture!r}, which ssd does not read from GGUF.",
            f"It reads {', '.join(known)}. The model's repository on the hub may hold a checkpoint that can be pulled.",
        )


def _check_tensors(header: GgufHeader) -> None:
    """Raise SsdError unless there are embeddings, and as many layers as the metadata say."""
    if _TABLE not in header.tensors or len(header.tensors[_TABLE].shape) != 2:
        raise SsdError(f"{header.name} holds no embeddings ({_TABLE}).", _OTHER)
    announced = header.number(f"{header.architecture}.block_count", 0)
    numbers = {int(found[1]) for name in header.tensors if (found := _LAYER.match(name))}
    if len(numbers) != announced or numbers != set(range(len(numbers))) or not 0 < announced <= _MOST_LAYERS:
        raise SsdError(f"{header.name} is damaged: it announces {announced:,} layers and has {len(numbers):,}.", _OTHER)


def _check_tokenizer(header: GgufHeader) -> None:
    """Raise SsdError unless the file has a tokenizer whose tokens are texts of a usual length."""
    tokens = header.array(_TOKENS)
    if not header.text("tokenizer.ggml.model") or not tokens:
        raise SsdError(f"{header.name} holds no tokenizer.", _OTHER)
    if not all(isinstance(token, str) and len(token) <= _LONGEST_TOKEN for token in tokens):
        raise SsdError(f"{header.name} is damaged: not all of its tokens are texts of up to {_LONGEST_TOKEN}.", _OTHER)


def _config(header: GgufHeader) -> dict[str, Any]:
    """The configuration of the native class, as transformers reads it."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    table = [key for key in header.fields if key.startswith(f"{header.architecture}.")]
    short = [key for key in table if len(header.array(key)) <= _MOST_LAYERS]
    read = _read(header, [_ARCHITECTURE, *short], AutoConfig.from_pretrained).to_dict()
    config = {key: value for key, value in read.items() if key not in _FOREIGN}
    return config | {"architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]]}


def _tokenizer(header: GgufHeader) -> bytes:
    """The content of tokenizer.json, without the tokens that transformers adds on its own account."""
    from transformers import PreTrainedTokenizerFast

    keys = [key for key in header.fields if key == _ARCHITECTURE or key.startswith("tokenizer.")]
    read: PreTrainedTokenizerFast = _read(header, keys, PreTrainedTokenizerFast.from_pretrained)
    made, known = json.loads(read.backend_tokenizer.to_str()), len(header.array(_TOKENS))
    made["added_tokens"] = [token for token in made["added_tokens"] if token["id"] < known]
    return json.dumps(made, ensure_ascii=False).encode()


def _settings(header: GgufHeader) -> dict[str, Any]:
    """The content of tokenizer_config.json: the special tokens, whether one opens every text, and the chat template."""
    tokens = header.array(_TOKENS)
    ids = {name: header.number(f"tokenizer.ggml.{role}_token_id", -1) for name, role in _ROLES.items()}
    settings: dict[str, Any] = {name: tokens[id] for name, id in ids.items() if 0 <= id < len(tokens)}
    opens, template = header.fields.get(_OPENS), header.text("tokenizer.chat_template")
    if opens is not None:
        settings["add_bos_token"] = bool(opens.value)
    return settings if template is None else settings | {"chat_template": template}


def _read(header: GgufHeader, keys: Iterable[str], read: Callable[..., _T]) -> _T:
    """Let one of transformers' classes read these entries of the metadata."""
    from ssdcli.models.auto_model import quiet

    with TemporaryDirectory() as folder, quiet():
        (Path(folder) / _FILE).write_bytes(excerpt(header, keys))
        return read(folder, gguf_file=_FILE, local_files_only=True)


_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}  # by ggml's names
_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}
_ADDED = (3, 4)  # types of tokens: control, and defined by a user


def sketch(header: GgufHeader) -> tuple[dict[str, Any], Vocabulary] | None:
    """The sizes and ids of a configuration, and the vocabulary; None where the tensors are known to a class alone.

    SsdError for a file without a tokenizer, and for a damaged one as far as that can be seen.
    """
    model_type = _TYPES.get(header.architecture)
    if model_type is None:
        return None
    check(header)
    named = {key: header.number(f"{header.architecture}.{name}", 0) for name, key in _SIZES.items()}
    config: dict[str, Any] = {key: size for key, size in named.items() if size}
    config |= own_ids(header)
    config["model_type"] = model_type
    config["architectures"] = [entry.architecture for entry in CAUSAL_CLASSES if entry.model_type == model_type]
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    return config, _vocabulary(header)


def _vocabulary(header: GgufHeader) -> Vocabulary:
    tokens, types = (header.array(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    added = {str(token): id for id, (token, kind) in enumerate(zip(tokens, types, strict=False)) if kind in _ADDED}
    roles = {"begin": "bos", "end": "eos", "mask": "mask", "pad": "padding"}
    ids = {name: header.number(f"tokenizer.ggml.{role}_token_id", -1) for name, role in roles.items()}
    known = {name: id for name, id in ids.items() if 0 <= id < len(tokens)}
    return Vocabulary(len(tokens), added, **known, chat=header.text("tokenizer.chat_template") is not None)

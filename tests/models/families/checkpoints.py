"""What writers of tiny checkpoints share: random weights, and the files of weights and tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

WORDS = 300  # ids of ordinary tokens; special ones come after
_TEXTS = ("Dear landlord, the boiler is cold again and the stairs are dark.", "None", " mask", " mask", "None")


class Draw:
    """Random weights, none of which a norm of 1, a bias of 0 or a transposition would leave unnoticed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def table(self, rows: int, width: int) -> Tensor:
        return 0.4 * self._normal(rows, width)

    def linear(self, outputs: int, inputs: int) -> Tensor:
        return self._normal(outputs, inputs) * 0.7 / inputs**0.5

    def norm(self, width: int) -> Tensor:
        return 1 + 0.3 * self._normal(width)

    def bias(self, width: int) -> Tensor:
        return 0.5 * self._normal(width)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_weights(folder: Path, tensors: Mapping[str, Tensor], shards: int = 1) -> None:
    """Safetensors as the hub has them: one file, or several with an index."""
    if shards == 1:
        return save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    names, index = list(tensors), {}
    for n in range(shards):
        file = f"model-{n + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[n * len(names) // shards : (n + 1) * len(names) // shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    return write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, in float64."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor.double() for file in files for name, tensor in load_file(file).items()}


@cache
def _byte_level_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        _TEXTS * 20, trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    )
    assert tokenizer.get_vocab_size() == WORDS
    return tokenizer.to_str()


def tokenizer(specials: Sequence[str]) -> Tokenizer:
    """A byte-level BPE of 300 tokens, and these special ones with the ids that follow."""
    made = Tokenizer.from_str(_byte_level_bpe())
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    return made


def write_tokenizer(folder: Path, specials: Sequence[str], settings: Mapping[str, Any]) -> None:
    """tokenizer.json, and tokenizer_config.json with these settings and the special tokens."""
    made = tokenizer(specials)
    made.save(str(folder / "tokenizer.json"))
    _write_settings(folder, made, settings)


def write_slow_tokenizer(folder: Path, specials: Sequence[str], settings: Mapping[str, Any]) -> None:
    """vocab.json, merges.txt and added_tokens.json, as slow tokenizers are saved, and no tokenizer.json."""
    made = tokenizer(specials)
    made.model.save(str(folder))
    write_json(folder / "added_tokens.json", {text: made.token_to_id(text) for text in specials})
    _write_settings(folder, made, settings)


def _write_settings(folder: Path, made: Tokenizer, settings: Mapping[str, Any]) -> None:
    added = made.get_added_tokens_decoder()
    flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
    table = {
        str(id): {"content": token.content} | {flag: getattr(token, flag) for flag in flags}
        for id, token in added.items()
    }
    write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": table, **settings})


def llama_tensors(
    draw: Draw, config: Mapping[str, Any], *, biases: bool = False, norms: bool = False
) -> dict[str, Tensor]:
    """Tensors of the sizes that a config.json gives in Llama's words, under Llama's names.

    biases: of queries, keys and values, as in Qwen2. norms: of queries and keys, as in Qwen3.
    """
    width, rows = config["hidden_size"], config["vocab_size"]
    tensors = {"model.embed_tokens.weight": draw.table(rows, width)}
    for n in range(config["num_hidden_layers"]):
        tensors |= _attention(draw, config, f"model.layers.{n}.self_attn.", biases=biases, norms=norms)
        tensors |= {
            f"model.layers.{n}.input_layernorm.weight": draw.norm(width),
            f"model.layers.{n}.post_attention_layernorm.weight": draw.norm(width),
            f"model.layers.{n}.mlp.gate_proj.weight": draw.linear(config["intermediate_size"], width),
            f"model.layers.{n}.mlp.up_proj.weight": draw.linear(config["intermediate_size"], width),
            f"model.layers.{n}.mlp.down_proj.weight": draw.linear(width, config["intermediate_size"]),
        }
    tensors["model.norm.weight"] = draw.norm(width)
    return tensors if config["tie_word_embeddings"] else tensors | {"lm_head.weight": draw.linear(rows, width)}


def _attention(draw: Draw, config: Mapping[str, Any], prefix: str, *, biases: bool, norms: bool) -> dict[str, Tensor]:
    width, heads, keys = (config[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    head = config.get("head_dim") or width // heads
    sizes = {"q": heads * head, "k": keys * head, "v": keys * head}
    tensors = {f"{prefix}{kind}_proj.weight": draw.linear(size, width) for kind, size in sizes.items()}
    tensors[f"{prefix}o_proj.weight"] = draw.linear(width, heads * head)
    if biases:
        tensors |= {f"{prefix}{kind}_proj.bias": draw.bias(size) for kind, size in sizes.items()}
    if norms:
        tensors |= {f"{prefix}{kind}_norm.weight": draw.norm(head) for kind in "qk"}
    return tensors

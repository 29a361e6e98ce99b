"""What families read from a config.json, with a clear error where it is missing or contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.family import Config, Stack, Vocabulary

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
_SHAPE = (
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "tie_word_embeddings",
)
_BRACKETS = ("<", "[", "|")
_REMEDY = "Get the checkpoint from its authors again, or name another."


def number(config: Config, key: str) -> Any:
    """A number that a configuration must have; SsdError if it does not."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SsdError(f"the checkpoint's config.json has {value!r} as {key!r}, which is not a number.", _REMEDY)
    return value


def count(config: Config, key: str) -> int:
    """A positive whole number that a configuration must have; SsdError if it does not."""
    value = number(config, key)
    if value < 1 or value % 1:
        raise SsdError(
            f"the checkpoint's config.json has {key!r} as {value!r}, which is not a positive whole number.", _REMEDY
        )
    return int(value)


def must(config: Config, key: str, expected: object, default: object = None) -> None:
    """Raise SsdError unless a configuration has the one value that the native class implements."""
    found = config.get(key, expected if default is None else default)
    if found != expected:
        raise SsdError(f"the checkpoint's config.json has {key!r} as {found!r}; only {expected!r} is known.", _REMEDY)


def off(config: Config, *keys: str) -> None:
    """Raise SsdError if a configuration switches on one of these, which the native class does not implement."""
    for key in keys:
        if config.get(key):
            raise SsdError(
                f"the checkpoint's config.json has {key!r} as {config[key]!r}; no such model is known.", _REMEDY
            )


def is_a(config: Config, *classes: str) -> bool:
    """Whether a configuration names one of these classes as its architecture."""
    return any(name in classes for name in config.get("architectures") or ())


def native(config: Config, kind: str, architecture: str) -> dict[str, Any]:
    """The configuration of a native class with the same key names, without causality."""
    for key in _SIZES:
        count(config, key)
    off(config, "use_sliding_window")
    own = {key: config[key] for key in (*_SIZES, *_SHAPE) if config.get(key) is not None}
    return own | {"model_type": kind, "architectures": [architecture], "is_causal": False}


def mask(config: Config, vocabulary: Vocabulary, *texts: str, known: int | None = None) -> int:
    """The mask's id: that in config.json, else an added token's, else the tokenizer's, else the known one.

    SsdError if the first two differ, or if none is below the number of embeddings.
    """
    named = None if config.get("mask_token_id") is None else number(config, "mask_token_id")
    added = next((vocabulary.ids[text] for text in texts if text in vocabulary.ids), None)
    if named is not None and added is not None and named != added:
        raise SsdError(
            f"the checkpoint's config.json has 'mask_token_id' as {named}, but its tokenizer has the mask at {added}.",
            _REMEDY,
        )
    found = next((id for id in (named, added, vocabulary.mask, known) if id is not None), None)
    if found is None or found >= rows(config):
        problem = f"neither config.json nor the tokenizer names a mask among the {rows(config)} embeddings."
        raise SsdError(problem, _REMEDY)
    return int(found)


def masks_with_a_word(vocabulary: Vocabulary) -> bool:
    """Whether the mask is not spelled like a special token; one that the files list as added may still be a word."""
    spelled = next((text for text, id in vocabulary.ids.items() if id == vocabulary.mask), "")
    return vocabulary.mask is not None and not spelled.startswith(_BRACKETS)


def special(vocabulary: Vocabulary, *texts: str) -> int:
    """The id of an added token by the first of these spellings that exists; SsdError if none does."""
    for text in texts:
        if text in vocabulary.ids:
            return vocabulary.ids[text]
    raise SsdError(f"the checkpoint's tokenizer has no token {' or '.join(texts)}.", _REMEDY)


def ends(config: Config, vocabulary: Vocabulary, *texts: str) -> tuple[int, ...]:
    """The ids that end a text: those in config.json, the tokenizer's own, and these tokens where they exist."""
    named = config.get("eos_token_id")
    ids = list(named) if isinstance(named, list) else [named]
    ids += [vocabulary.end, *(vocabulary.ids.get(text) for text in texts)]
    found = tuple(dict.fromkeys(id for id in ids if id is not None))
    if not found:
        raise SsdError("neither config.json nor the tokenizer names an end of text.", _REMEDY)
    return found


def never_text(vocabulary: Vocabulary, rows: int, *more: int) -> tuple[int, ...]:
    """These ids, and the rows of the head for which the tokenizer has no token."""
    return tuple(sorted({*more, *range(vocabulary.size, rows)}))


@dataclass(frozen=True, kw_only=True)
class MaskedSpec:
    """How a family's masked checkpoints are run.

    masks: the mask's spellings, and known_mask the id of the published checkpoints; see `mask`.
    block: tokens of a block, or the key in config.json that says how many.
    window: the key of the context's length, and trained what a checkpoint was trained on, where that is less.
    ends: tokens that end a text, see `ends`.
    padded: whether the answers that a chat model was trained on were padded with ends.
    """

    masks: tuple[str, ...] = ()
    known_mask: int | None = None
    attention: str = "full"
    block: int | str = 32
    window: str = "max_position_embeddings"
    trained: int | None = None
    shift: bool = False
    ends: tuple[str, ...] = ()
    padded: bool = False

    def __call__(self, config: Config, vocabulary: Vocabulary) -> CoreSpec:
        """See `Family.spec`."""
        hidden, context = mask(config, vocabulary, *self.masks, known=self.known_mask), count(config, self.window)
        return CoreSpec(
            process="masked",
            constants={"mask_id": hidden},
            attention=self.attention,
            block_size=count(config, self.block) if isinstance(self.block, str) else self.block,
            context=min(context, self.trained or context),
            shift=self.shift,
            begin=vocabulary.begin,
            ends=ends(config, vocabulary, *self.ends),
            suppressed=never_text(vocabulary, rows(config), hidden),
            late_ends=self.padded and vocabulary.chat,
            format=prompt_format(vocabulary),
        )


def rows(config: Config) -> int:
    """Rows of the embeddings and the head, which may be more than the vocabulary."""
    return int(config.get("embedding_size") or count(config, "vocab_size"))


def stacked_experts(expert: str) -> tuple[Stack, Stack]:
    """The rules for a layer's experts; expert: the pattern of a tensor's name, its groups the layer and `n`."""
    both = expert + r"gate_proj\.weight", expert + r"up_proj\.weight"
    target = r"model.layers.\1.mlp.experts."
    return Stack(both, target + "gate_up_proj"), Stack((expert + r"down_proj\.weight",), target + "down_proj")


def prompt_format(vocabulary: Vocabulary) -> str:
    """The format: "chat" if the tokenizer has a template, else "plain"."""
    return "chat" if vocabulary.chat else "plain"

"""Causal language models, run as cores: each predicts the token after the known text, exactly.

A causal language model is a masked diffusion model that knows one thing, the leftmost hidden token given all to its
left (see `ssdcli.engine.causal`). It is given a mask id for the canvases of the small models beside it, and never
reads that id itself.

Some diffusion models have the native class of a causal one. Those that ssd knows are recognised before this family is
asked. Any other is refused if its config.json names a mask or switches causality off. A mask among the tokenizer's
special tokens proves nothing: causal models may have one, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import count, ends, is_a, must, never_text, off, prompt_format
from ssdcli.models.families.family import GENERATION, Config, Drop, Family, KeyRule, Rename, Vocabulary

_BLOCK = 16  # the tokens of a canvas; it only matters to the small models
_DOCUMENT_END = "<|endoftext|>"  # what separated documents in training, wherever a vocabulary has it
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")
_UNUSED = re.compile(r"[<\[]\|?(reserved|unused|extra_|control_|special_)\w*\|?[>\]]", re.IGNORECASE)
_FOREIGN = ("auto_map", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "_attn_implementation")
_LAYER_TYPES = "layer_types"
_SHARED = ("eos_token_id", "bos_token_id")  # given once for all parts of a checkpoint


@dataclass(frozen=True)
class LanguagePart:
    """The language model of a checkpoint that also reads images.

    key: of its configuration in config.json.
    model_type: transformers' name for that configuration.
    architecture: the native class of the language model alone.
    """

    key: str
    model_type: str
    architecture: str


@dataclass(frozen=True, kw_only=True)
class CausalClass:
    """A native class with a KV cache.

    model_type: transformers' name for its configuration.
    architecture: the class.
    title: as people know it.
    part: what is run, where the class also reads images.
    window: the key of config.json that says how many positions it reads.
    layered: whether its layers may differ in what they see, by `layer_types`.
    keys: rules for the names of tensors.
    """

    model_type: str
    architecture: str
    title: str
    part: LanguagePart | None = None
    window: str = "max_position_embeddings"
    layered: bool = False
    keys: tuple[KeyRule, ...] = ()

    def recognises(self, config: Config, _: Vocabulary) -> bool:
        """Whether a config.json names this class, or, if it names none, this type."""
        if config.get("architectures"):
            return is_a(config, self.architecture)
        return config.get("model_type") == self.model_type

    def native(self, config: Config) -> dict[str, Any]:
        """The class's configuration, checked."""
        _check_quantization(config)
        config = self._own(config)
        _check_causality(config)
        for key in ("vocab_size", self.window):
            count(config, key)
        left_out = _FOREIGN if self.layered else (*_FOREIGN, _LAYER_TYPES)
        own = {key: value for key, value in config.items() if key not in left_out}
        kind = self if self.part is None else self.part
        return own | {"model_type": kind.model_type, "architectures": [kind.architecture]}

    def spec(self, config: Config, vocabulary: Vocabulary) -> CoreSpec:
        """How a checkpoint of this class is run."""
        config = self._own(config) | {GENERATION: config.get(GENERATION, {})}
        rows, text_ends = count(config, "vocab_size"), _ends(config, vocabulary)
        hidden = _mask(vocabulary, rows, text_ends)
        return CoreSpec(
            process="masked",
            constants={"mask_id": hidden},
            attention="autoregressive",
            block_size=_BLOCK,
            context=self._context(config),
            shift=True,
            begin=_begin(config, vocabulary),
            ends=text_ends,
            suppressed=never_text(vocabulary, rows, hidden),
            format=prompt_format(vocabulary),
        )

    def _own(self, config: Config) -> dict[str, Any]:
        """The configuration of what is run."""
        if self.part is None:
            return dict(config)
        shared = {key: config[key] for key in _SHARED if config.get(key) is not None}
        return _completed(config.get(self.part.key), self.part) | shared

    def _context(self, config: Config) -> int:
        """How many positions it reads with rotary frequencies that do not depend on the length of the text."""
        window = count(config, self.window)
        rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if rotary.get("rope_type", rotary.get("type")) not in ("longrope", "su"):
            return window
        first = rotary.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        return min(window, int(first or window))

    def family(self) -> Family:
        """The family of this class's checkpoints."""
        return Family(
            name=self.model_type,
            title=self.title,
            recognises=self.recognises,
            native=self.native,
            spec=self.spec,
            keys=self.keys,
        )


def _completed(table: object, part: LanguagePart) -> dict[str, Any]:
    """A part's configuration, with the usual values where config.json has none; SsdError if the part is missing."""
    from transformers import AutoConfig

    try:
        if not isinstance(table, dict):
            raise TypeError("it is missing")
        completed: dict[str, Any] = AutoConfig.for_model(**{**table, "model_type": part.model_type}).to_dict()
    except Exception as error:  # each class refuses in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SsdError(
            f"{part.key!r} in the checkpoint's config.json describes no language model: {reason}.",
            "Name another repository.",
        ) from error
    return completed


def _check_quantization(config: Config) -> None:
    """Raise SsdError for quantised weights, which no native class reads by itself."""
    table = config.get("quantization_config")
    if table:
        method = table.get("quant_method", "unknown") if isinstance(table, dict) else "unknown"
        raise SsdError(
            f"the checkpoint's weights are quantised (by the method {method!r}), and ssd reads only weights of 16 or "
            "32 bits.",
            "Pull the checkpoint that this one was made from; 'ssd generate --dtype int4' quantises it on loading.",
        )


def _check_causality(config: Config) -> None:
    """Raise SsdError for a checkpoint of a causal class that is not a causal model."""
    if config.get("mask_token_id") is not None:
        raise SsdError(
            f"the checkpoint's config.json names a mask ('mask_token_id' is {config['mask_token_id']!r}), so it is "
            "not a causal language model; nor is it a diffusion language model that ssd knows.",
            "Name another repository.",
        )
    must(config, "is_causal", expected=True)
    off(config, "use_bidirectional_attention", "add_cross_attention")


def _ends(config: Config, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The ids that end a text or a document, and, where there is a chat template, those that end a turn."""
    generation = config.get(GENERATION, {})
    named = [id for table in (config, generation) for id in _ids(table.get("eos_token_id"))]
    texts = (*(_TURN_ENDS if vocabulary.chat else ()), _DOCUMENT_END)
    return ends({**config, "eos_token_id": named}, vocabulary, *texts)


def _ids(named: object) -> Iterator[int]:
    yield from (id for id in (named if isinstance(named, list) else [named]) if isinstance(id, int))


def _begin(config: Config, vocabulary: Vocabulary) -> int | None:
    """The id before every text: the one that the tokenizer puts there, else the one between documents in training."""
    named = config.get("bos_token_id")
    known = (vocabulary.opening, vocabulary.ids.get(_DOCUMENT_END), vocabulary.begin, next(_ids(named), None))
    return next((id for id in known if id is not None), None)


def _mask(vocabulary: Vocabulary, rows: int, text_ends: tuple[int, ...]) -> int:
    """An id that no text contains: the tokenizer's special mask, a row without a token, an unused token, or V."""
    if vocabulary.mask is not None and vocabulary.mask in vocabulary.ids.values():
        return vocabulary.mask
    if vocabulary.size < rows:
        return vocabulary.size
    taken = {vocabulary.begin, vocabulary.opening, vocabulary.pad, *text_ends}
    unused = [id for text, id in vocabulary.ids.items() if _UNUSED.fullmatch(text) and id not in taken]
    return max(unused, default=rows)


CAUSAL_CLASSES = (
    CausalClass(model_type="llama", architecture="LlamaForCausalLM", title="Llama"),
    CausalClass(model_type="mistral", architecture="MistralForCausalLM", title="Mistral"),
    CausalClass(model_type="qwen2", architecture="Qwen2ForCausalLM", title="Qwen2", layered=True),
    CausalClass(model_type="qwen3", architecture="Qwen3ForCausalLM", title="Qwen3", layered=True),
    CausalClass(model_type="smollm3", architecture="SmolLM3ForCausalLM", title="SmolLM3", layered=True),
    CausalClass(model_type="gemma", architecture="GemmaForCausalLM", title="Gemma"),
    CausalClass(model_type="gemma2", architecture="Gemma2ForCausalLM", title="Gemma 2", layered=True),
    CausalClass(model_type="gemma3_text", architecture="Gemma3ForCausalLM", title="Gemma 3", layered=True),
    CausalClass(
        model_type="gemma3",
        architecture="Gemma3ForConditionalGeneration",
        title="Gemma 3 with images",
        part=LanguagePart("text_config", "gemma3_text", "Gemma3ForCausalLM"),
        layered=True,
        keys=(
            Rename(r"(?:language_model\.model|model\.language_model)\.(.*)", r"model.\1"),
            Rename(r"language_model\.(lm_head\..*)", r"\1"),
            Drop(r"(model\.)?(vision_tower|multi_modal_projector)\..*"),
        ),
    ),
    CausalClass(model_type="phi3", architecture="Phi3ForCausalLM", title="Phi-3"),
    CausalClass(model_type="olmo2", architecture="Olmo2ForCausalLM", title="OLMo 2"),
    CausalClass(model_type="olmo3", architecture="Olmo3ForCausalLM", title="OLMo 3", layered=True),
    CausalClass(
        model_type="gpt_neox",
        architecture="GPTNeoXForCausalLM",
        title="GPT-NeoX",  # Pythia
        keys=(
            Drop(r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"),
            Rename(r"embed_out\.weight", "lm_head.weight"),
        ),
    ),
    CausalClass(
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        title="GPT-2",
        window="n_positions",  # its position embeddings are learned: there are no more
        keys=(
            Drop(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)"),
            Rename(r"((?:wte|wpe|ln_f|h\.\d+)\..*)", r"transformer.\1"),
        ),
    ),
)
CAUSAL = tuple(entry.family() for entry in CAUSAL_CLASSES)

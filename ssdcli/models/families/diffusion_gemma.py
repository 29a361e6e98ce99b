"""DiffusionGemma (Google, 2026): a native class whose encoder reads prefixes and whose decoder denoises canvases.

Its vision tower is kept, though images are never read: it is a fiftieth of the weights, the native class requires it,
and so all files can be linked as they are.
"""

from __future__ import annotations

from typing import Any

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import ends, is_a, must, never_text, number, prompt_format
from ssdcli.models.families.family import GENERATION, Config, Family, Vocabulary

_CLASS = "DiffusionGemmaForBlockDiffusion"
_BLOCK = 256
_FOREIGN = ("auto_map", "transformers_version")
_MEDIA = ("<|image>", "<|image|>", "<image|>", "<|audio>", "<|audio|>", "<audio|>", "<|video|>")
_MEDIA_IDS = ("boi_token_id", "image_token_id", "eoi_token_id")


def _native(config: Config) -> dict[str, Any]:
    must(config, "tie_word_embeddings", True)
    both_ways = _text(config).get("use_bidirectional_attention") or "vision"  # images, which are never read, or "all"
    must({"use_bidirectional_attention": both_ways}, "use_bidirectional_attention", "vision")
    return {key: value for key, value in config.items() if key not in _FOREIGN} | {"architectures": [_CLASS]}


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    text, generation = _text(config), config.get(GENERATION, {})
    eos = [*_ids(config.get("eos_token_id")), *_ids(text.get("eos_token_id")), *_ids(generation.get("eos_token_id"))]
    media = [vocabulary.ids.get(spelling) for spelling in _MEDIA] + [config.get(key) for key in _MEDIA_IDS]
    return CoreSpec(
        process="uniform",
        constants=_constants(generation),
        attention="causal",
        block_size=_given(config, "canvas_length", _BLOCK),
        context=number(text, "max_position_embeddings"),
        begin=vocabulary.begin,
        ends=ends({"eos_token_id": eos}, vocabulary, "<turn|>"),
        suppressed=never_text(vocabulary, number(text, "vocab_size"), *(id for id in media if id is not None)),
        format=prompt_format(vocabulary),
    )


def _text(config: Config) -> Config:
    """The language model's part of the configuration."""
    table: Config = config.get("text_config") or {}
    return table


def _ids(named: int | list[int] | None) -> list[int | None]:
    return [*named] if isinstance(named, list) else [named]


def _given(config: Config, key: str, default: float) -> Any:
    """A number of a configuration, or the default if it has none."""
    return default if config.get(key) is None else number(config, key)


def _constants(generation: Config) -> dict[str, float]:
    """The sampler's constants, see `Uniform`; defaults as in the native class's own sampler."""
    return {
        "timed": 0,
        "hot": _given(generation, "t_max", 0.8),
        "cold": _given(generation, "t_min", 0.4),
        "bound": _given(generation.get("sampler_config") or {}, "entropy_bound", 0.1),
        "sure": _given(generation, "confidence_threshold", 0.005),
        "stable": _given(generation, "stability_threshold", 1),
        "steps": _given(generation, "max_denoising_steps", 48),
    }


DIFFUSION_GEMMA = Family(
    name="diffusion-gemma",
    title="DiffusionGemma",
    recognises=lambda config, _: is_a(config, _CLASS) or config.get("model_type") == "diffusion_gemma",
    native=_native,
    spec=_spec,
)

"""What the adapters ask of a config.json, with a clear sentence where the answer is missing or contradicts itself."""

from __future__ import annotations

from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.family import Config, Vocabulary

_REMEDY = "Get the checkpoint from its authors again, or name another."


def number(config: Config, key: str) -> Any:
    """The number that a configuration must give; SsdError if it does not."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SsdError(f"the checkpoint's config.json gives no number as {key!r}, but {value!r}.", _REMEDY)
    return value


def must(config: Config, key: str, expected: object, default: object = None) -> None:
    """Raise SsdError unless a configuration has the one value that the family's native class stands for."""
    found = config.get(key, expected if default is None else default)
    if found != expected:
        raise SsdError(f"the checkpoint's config.json has {key!r} as {found!r}; only {expected!r} is known.", _REMEDY)


def special(vocabulary: Vocabulary, *texts: str) -> int:
    """The id of an added token by the first of its spellings that is there; SsdError if none is."""
    for text in texts:
        if text in vocabulary.ids:
            return vocabulary.ids[text]
    raise SsdError(f"the checkpoint's tokenizer has no token {' or '.join(texts)}.", _REMEDY)


def ends(config: Config, vocabulary: Vocabulary, *texts: str) -> tuple[int, ...]:
    """The ids that end a text: those named in config.json, the tokenizer's own, and these special tokens if there."""
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


def prompt_format(vocabulary: Vocabulary) -> str:
    """Chat where the tokenizer has a template."""
    return "chat" if vocabulary.chat else "plain"

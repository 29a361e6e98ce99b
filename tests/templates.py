"""Chat templates of several manners, and a tokenizer that knows their special tokens."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer

from ssdcli.text.chat_template import Chat
from tests.tiny import VOCABULARY, tiny_tokenizer

SPECIALS = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TOKENS = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
BEGIN, END, SYSTEM, USER, ASSISTANT = range(VOCABULARY, VOCABULARY + len(SPECIALS))

_TURN = "{{ '<|' + m.role + '|>' + m.content + eos_token }}"
_OPEN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
INSTRUCT = "{{ bos_token }}{% for m in messages %}" + _TURN + "{% endfor %}" + _OPEN
WORDY = (
    "{% for m in messages %}### {{ m.role | title }}:\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}### Answer:\n"
)
DEAF = "{% for m in messages if m.role != 'system' %}" + _TURN + "{% endfor %}" + _OPEN
STRICT = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}" + _TURN + "{% endfor %}" + _OPEN
)


def chat(template: str) -> Chat:
    """A template of a model named big."""
    return Chat("big", template, TOKENS)


@cache
def _tokenizer() -> str:
    tokenizer = Tokenizer.from_str(tiny_tokenizer().to_str())
    tokenizer.add_special_tokens(list(SPECIALS))
    return str(tokenizer.to_str())


def chat_tokenizer() -> Tokenizer:
    """The tiny tokenizer and the special tokens of these templates, from VOCABULARY on."""
    return Tokenizer.from_str(_tokenizer())

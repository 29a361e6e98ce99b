"""Private keys and what looks like a credential, which are left out of every document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ssdcli.data.documents import Document, ReadReport

KEY = "private key in a text"
CREDENTIAL = "what looks like a credential"

_KEY_BLOCK = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END (?P=kind)-----|\Z)", re.DOTALL
)
_TOKENS = re.compile(  # by the forms that their issuers document
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}"  # Amazon
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}"  # GitHub, GitLab
    r"|xox[abeprs]-[\w-]{10,}|hooks\.slack\.com/services/T\w+/B\w+/\w+"  # Slack
    r"|sk-(?:ant-|proj-|or-)?(?=[\w-]*\d)[\w-]{20,}|hf_[A-Za-z]{30,}|AIza[\w-]{35}"  # language models, Google
    r"|(?:sk|rk)_(?:live|test)_[0-9A-Za-z]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}|key-[0-9a-f]{32}"  # payments, mail
    r"|npm_[A-Za-z0-9]{36}|pypi-AgE[\w-]{50,}|dop_v1_[0-9a-f]{64}"  # packages, servers
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"  # JSON web tokens
)
_HEADER = re.compile(  # of a request on the web
    r"authorization[\"']?\s?:\s?[\"']?(?:basic|bearer|token)\s(?=[^\s\"']*\d)[\w.~+/-]{12,}", re.IGNORECASE
)
_ADDRESS = re.compile(  # with a password in it
    r"://[^\s/:@]+:(?!(?i:pass|password|passwd|secret|postgres|mysql|root|user|x+)@)[^\s/@$<{*]{3,}@[\w.-]+"
)
_VALUE = re.compile(  # of a setting whose name ends in one of _NAMES: letters and figures, no placeholder and no code
    r"(?i:word|wd|phrase|_?access_?key|_?key)?[\"']?\s{0,3}[:=]{1,2}>?\s{0,3}"
    r"[\"']?(?=[^\s\"']*\d)(?=[^\s\"']*[A-Za-z])[^\s\"'()\[\]{}<>$,;]{8,}[\"']?(?=\s|[,;}\"']|$)"
)
_MARKS: Mapping[str, tuple[str, ...]] = {  # what tokens begin with, by a character in it
    "": ("AKIA", "ASIA", "AIza", "hooks.slack", "SG.", "eyJ"),
    "-": ("glpat-", "xox", "sk-", "key-", "pypi-"),
    "_": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "hf_", "_live_", "_test_", "npm_", "dop_v1_"),
}
_NAMES: Mapping[str, tuple[str, ...]] = {  # what names of settings with a credential end in, by a word in it
    "pass": ("pass",),
    "pwd": ("pwd",),
    "secret": ("secret",),
    "key": ("apikey", "api_key", "api-key", "api key", "private_key", "privatekey", "access_key"),
    "token": ("_token", "-token", "accesstoken", "authtoken"),
}


def without_secrets(documents: Iterable[Document], report: ReadReport) -> Iterator[Document]:
    """Yield documents without private keys and the lines with credentials; how many are left out is counted.

    A document of which nothing remains, or a conversation of which an answer is lost, is left out altogether.
    """
    for document in documents:
        texts = [turn.content for turn in document.turns] or [document.text]
        if not any("PRIVATE KEY" in text or _places(text) for text in texts):
            yield document
            continue
        clean = _clean_turns(document, report) if document.turns else _clean_text(document, report)
        report.amend(document, clean)
        if clean is not None:
            yield clean


def _clean_text(document: Document, report: ReadReport) -> Document | None:
    text = _without(document.text, document.source, report)
    return replace(document, text=text) if text.strip() else None


def _clean_turns(document: Document, report: ReadReport) -> Document | None:
    turns = tuple(replace(turn, content=_without(turn.content, document.source, report)) for turn in document.turns)
    lost = any(turn.written and not turn.content.strip() for turn in turns)
    return None if lost else Document.conversation(turns, document.source)


def _without(text: str, place: str, report: ReadReport) -> str:
    """A text without its secrets, each of which is counted."""
    text, keys = _KEY_BLOCK.subn("", text)
    for _ in range(keys):
        report.skip(KEY, place, "passage")
    wrong = {text.count("\n", 0, start) for start in _places(text)}
    for line in sorted(wrong):
        report.skip(CREDENTIAL, f"{place}:{line + 1}", "line")
    return "\n".join(line for number, line in enumerate(text.split("\n")) if number not in wrong) if wrong else text


def _places(text: str) -> list[int]:
    """Where credentials begin; searched for by fixed words first, since most texts have none."""
    places = [found.start() for found in _ADDRESS.finditer(text)] if "://" in text and "@" in text else []
    if "uthorization" in text:
        places += [found.start() for found in _HEADER.finditer(text)]
    if any(True for _ in _present(_MARKS, text)):
        places += [found.start() for found in _TOKENS.finditer(text)]
    lower = text.lower()
    if len(lower) == len(text):  # a few letters have another length in lower case
        places += [
            at for name in _present(_NAMES, lower) for at in _all(lower, name) if _VALUE.match(text, at + len(name))
        ]
    return places


def _present(words: Mapping[str, Sequence[str]], text: str) -> Iterator[str]:
    """Yield the words that occur in a text, each looked for only if the part of it that is its key occurs."""
    for part, several in words.items():
        if part in text:
            yield from (word for word in several if word in text)


def _all(text: str, word: str) -> Iterator[int]:
    """Yield where a word occurs in a text."""
    place = text.find(word)
    while place >= 0:
        yield place
        place = text.find(word, place + len(word))

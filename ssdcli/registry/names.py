"""The grammar of model names, and the known name nearest to a mistyped one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from ssdcli.errors import UsageError

LONGEST = 100
NO_CORE = "none"  # in place of a core's name: the small models write alone
CONTEXT_SOURCE = "context"  # in place of a file's name, where the text of a private context alone is known
_GRAMMAR = re.compile(r"[a-z0-9][a-z0-9._-]*")
_ADVICE = (
    "Use lower-case letters, digits, '.', '_' and '-', begin with a letter or a digit, "
    f"and stay within {LONGEST} characters."
)


def check_name(name: str) -> str:
    """The name unchanged, or raise UsageError; no allowed name leads out of the registry."""
    if len(name) <= LONGEST and _GRAMMAR.fullmatch(name):
        return name
    lowered = name.lower()
    if lowered != name and len(lowered) <= LONGEST and _GRAMMAR.fullmatch(lowered):
        raise UsageError(f"{name!r} is not a model name: it has upper-case letters.", f"Did you mean {lowered!r}?")
    raise UsageError(f"{_shown(name)} is not a model name: {_fault(name)}.", _ADVICE)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "Did you mean 'notes'?" for the known name nearest to this one, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else ""


def _shown(name: str) -> str:
    return repr(name if len(name) <= LONGEST else name[:40] + "...")


def _fault(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name) > LONGEST:
        return f"it has {len(name)} characters"
    if "/" in name or "\\" in name:
        return "it looks like a path"
    if not _GRAMMAR.fullmatch(name[0]):
        return f"it begins with {name[0]!r}"
    return f"it contains {next(c for c in name if not _GRAMMAR.fullmatch('a' + c))!r}"

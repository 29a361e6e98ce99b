"""Fenced blocks of Markdown, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "reference.md")]

_NOT_RUN = "<!-- not run:"


@dataclass(frozen=True)
class Block:
    """A fenced block; runs: whether it can run here."""

    page: Path
    line: int
    language: str
    text: str
    runs: bool

    def commands(self) -> Iterator[str]:
        """What stands behind the prompts of a console block, continued lines joined."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ")


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    opened, before = 0, ""
    for number, line in enumerate(lines := page.read_text(encoding="utf-8").splitlines(), start=1):
        if opened and line == "```":
            text = "".join(f"{line}\n" for line in lines[opened : number - 1])
            found.append(Block(page, opened, lines[opened - 1][3:], text, not before.startswith(_NOT_RUN)))
            opened = 0
        elif not opened and line.startswith("```"):
            opened, before = number, lines[number - 2] if number > 1 else ""
    assert not opened, f"{page.name}:{opened} opens a block that is never closed"
    return found


@dataclass(frozen=True)
class Program:
    """One program of a pipeline: variables before it, its words, and where its output goes, if not on."""

    variables: dict[str, str]
    words: list[str]
    output: str | None


def pipeline(command: str) -> list[Program]:
    """A command line such as `cat notes.txt | ssd generate > out.txt` as programs."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|<>")
    lexer.whitespace_split = True
    programs, words = [], iter(lexer)
    variables, own, output = {}, [], None
    for word in words:
        if word == "|":
            programs.append(Program(variables, own, output))
            variables, own, output = {}, [], None
        elif word == ">":
            output = next(words)
        elif not own and re.fullmatch(r"[A-Z_]+=.*", word):
            name, _, value = word.partition("=")
            variables[name] = value
        else:
            own.append(word)
    return [*programs, Program(variables, own, output)]


def arguments(program: Program) -> list[str] | None:
    """What `ssd` is given, however it is started; None for another program."""
    if program.words[0] == "ssd":
        return program.words[1:]
    if program.words[0] == "torchrun":
        return program.words[program.words.index("ssdcli") + 1 :]
    return None


def prose(page: Path) -> str:
    """A page without its fenced blocks and comments."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def code_spans(page: Path) -> list[str]:
    """What stands between backticks in a page's prose, line ends made spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]

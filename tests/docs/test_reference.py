"""The reference is what the commands say now, and the documents name only what there is."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from benchmarks.__main__ import parser_of
from ssdcli.cli.app import app
from ssdcli.cli.reference import reference, settings_of
from ssdcli.data.row_forms import FIELDS, SAID, SPEAKER
from ssdcli.options.declare import variable_of
from ssdcli.registry.recipes import recipe_names
from tests.docs.markdown import PAGES, ROOT, arguments, blocks, code_spans, pipeline, prose

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
NAMED = [*PAGES, ROOT / "SECURITY.md"]  # pages that name no options but those of ssd
FOREIGN = {"--nproc-per-node"}


def resolved(words):
    """The command that these words call, and what it is given."""
    command, rest = get_command(app), list(words)
    while hasattr(command, "commands"):
        assert rest, f"{words} names a group of commands"
        assert rest[0] in command.commands, f"there is no command {' '.join(words)!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def options(command):
    return {word for param in command.params for word in (*param.opts, *param.secondary_opts) if word[0] == "-"}


def commands(page):
    """What every `ssd` in a page's console blocks is given."""
    for block in blocks(page):
        for command in block.commands():
            for program in pipeline(command):
                given = arguments(program)
                if given is not None:
                    yield given


def test_the_reference_is_up_to_date():
    written = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert written == reference().rstrip("\n") + "\n", "run `make reference`"


def test_the_reference_knows_the_variables():
    generate = settings_of(get_command(app).commands["generate"])
    assert variable_of(generate["members"]) == "SSD_WITH"
    assert (variable_of(generate["top_p"]), generate["top_p"].default) == ("SSD_TOP_P", 0.95)
    core = settings_of(get_command(app).commands["train-small"])["core"]
    assert (variable_of(core), core.default) == ("SSD_FOR", "")
    assert variable_of(settings_of(get_command(app).commands["eval"])["rules"]) == "SSD_RULE"
    assert settings_of(get_command(app).commands["pull"]) == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_understood(page):
    for given in commands(page):
        command, rest = resolved([word for word in given if word not in ("-q", "--quiet", "--debug")])
        command.make_context(command.name, rest)  # raises for an option or an argument that is not known


@pytest.mark.parametrize("page", NAMED, ids=lambda page: page.name)
def test_every_option_that_a_page_names_exists(page):
    root = get_command(app)
    known = options(root) | FOREIGN
    for name in root.commands:
        below = getattr(root.commands[name], "commands", {"": root.commands[name]})
        known.update(*map(options, below.values()))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", prose(page)))
    assert named <= known


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists(page):
    for span in code_spans(page):
        words = span.split()
        if words[:1] != ["ssd"] or len(words) < 2 or not re.fullmatch(r"[a-z][a-z-]*", words[1]):
            continue
        root = get_command(app)
        assert words[1] in root.commands, f"{page.name}: {span}"
        below = getattr(root.commands[words[1]], "commands", None)
        if below is not None and len(words) > 2:
            assert words[2] in below, f"{page.name}: {span}"
        elif below is None and page in NAMED:
            named = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert named <= options(root.commands[words[1]]), f"{page.name}: {span}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = page if not name else (page.parent / name).resolve()
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{page.name}: {target}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "lab").glob("*.md")), ids=lambda page: page.name)
def test_every_benchmark_that_a_page_of_the_log_names_exists_or_is_in_the_commit_that_it_names(page):
    text = re.sub(r"\s*\\?\n\s*", " ", page.read_text(encoding="utf-8"))
    if re.search(r"retired, last kept in commit `[0-9a-f]{7}`", text):
        return
    for name, given in re.findall(r"python -m benchmarks ([a-z_]+)([^`]*)`", text):
        script = ROOT / "benchmarks" / f"{name}.py"
        assert script.is_file(), f"{page.name}: {name}"
        actions = parser_of(import_module(f"benchmarks.{name}"), name)._actions
        known = {option for action in actions for option in action.option_strings}
        for option in re.findall(r"(?<![\w-])--[a-z-]+", given):
            assert option in known, f"{page.name}: {name} {option}"


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 6000


def test_every_page_is_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"(docs/{page.name})" in readme for page in (ROOT / "docs").glob("*.md"))


def test_every_page_of_the_log_is_in_its_index():
    lab = ROOT / "docs" / "lab"
    index = (lab / "README.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in index for page in lab.glob("*.md") if page.name != "README.md")


def test_every_recipe_is_in_its_page():
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in recipe_names())


def test_the_page_on_text_names_all_that_a_row_can_be():
    page = (ROOT / "docs" / "text.md").read_text(encoding="utf-8")
    rows = page[page.index("## Rows") :]
    assert not [name for name in (*FIELDS, *SPEAKER, *SAID) if f"`{name}`" not in rows]
